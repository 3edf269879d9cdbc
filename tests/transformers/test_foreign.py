"""The transformer before predictors that know only the plain V1 or V2 protocol: one setting makes its tensor theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from testbed.plain_servers import HEIGHT, LABELS, WIDTH, Plain, plain_grpc, plain_v1, plain_v2
from testbed.stores import Store
from testbed.transformers import running_transformer
from whimbrel.core.errors import NotFound, SettingsError, Unavailable
from whimbrel.core.package import Preset
from whimbrel.core.results import Prediction
from whimbrel.core.settings import load
from whimbrel.local.state import free_port
from whimbrel.transformers.answers import Answer
from whimbrel.transformers.connect import predictor_of
from whimbrel.transformers.contract import Contract, contract_of
from whimbrel.transformers.decode import Limits, decode
from whimbrel.transformers.settings import TransformerSettings

pytestmark = pytest.mark.anyio

LEFT, RIGHT = (10, 250, 30), (200, 20, 60)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PLAIN = {"model_name": "plain", "size": [HEIGHT, WIDTH], "activation": "logits", "labels": list(LABELS)}
V2 = {"protocol": "v2", "input": "pixels", "output": "means"}


def picture() -> bytes:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2], pixels[:, WIDTH // 2 :] = LEFT, RIGHT
    target = BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def expected(mean: Any = (0, 0, 0), std: Any = (1, 1, 1), scale: float = 1.0) -> list[float]:
    """The probabilities of the six labels by the servers' rule."""
    logits = ((np.array([LEFT, RIGHT]) * scale - mean) / std).reshape(-1)
    powers = np.exp(logits - logits.max())
    return [float(power) for power in powers / powers.sum()]


def settings_for(address: str, contract: dict[str, Any] | str, *arguments: str) -> TransformerSettings:
    text = contract if isinstance(contract, str) else json.dumps(contract)
    needed = ["--model-name", "digits", "--predictor-host", address, "--predictor-contract", text, "--top-k", "6"]
    return load(TransformerSettings, [*needed, *arguments], program="transformer")


async def ask(address: str, contract: dict[str, Any]) -> Answer:
    """What the transformer's side of the predictor makes of the picture."""

    async def prepare(preset: Preset) -> NDArray[np.uint8]:
        return decode(picture(), preset, Limits())

    settings = settings_for(address, contract)
    predictor = predictor_of(settings, settings.predictors[0])
    try:
        return await predictor.classify(prepare, "walk")
    finally:
        await predictor.close()


def by_index(predictions: Iterable[Prediction]) -> list[float]:
    ordered = sorted(predictions, key=lambda prediction: prediction.index)
    assert [prediction.label for prediction in ordered] == list(LABELS)
    return [prediction.score for prediction in ordered]


FLOATS = {"layout": "NHWC", "dtype": "float32", "normalisation": IMAGENET}
SIGNED = {"scale": 1 / 127.5, "mean": [1, 1, 1]}

CASES: list[tuple[AbstractContextManager[Plain], dict[str, Any], list[float]]] = [
    (plain_v1(), {"protocol": "v1", **FLOATS}, expected(**IMAGENET, scale=1 / 255)),
    (
        plain_v1("scores", "image"),
        {"protocol": "v1", "input": "image", "output": "scores", "layout": "NHWC", "dtype": "uint8"},
        expected(),
    ),
    (
        plain_v2("FP32", binary=True, channels_first=True),
        {**V2, **FLOATS, "layout": "NCHW"},
        expected(**IMAGENET, scale=1 / 255),
    ),
    (
        plain_v2("FP32", binary=False, channels_first=False),
        {**V2, **FLOATS, "binary_tensors": False, "normalisation": SIGNED},
        expected(mean=(1, 1, 1), scale=1 / 127.5),
    ),
    (
        plain_v2("FP16", binary=True, channels_first=False),
        {**V2, "layout": "NHWC", "dtype": "float16", "normalisation": {}},
        expected(scale=1 / 255),
    ),
    (
        plain_grpc(),
        {**V2, **FLOATS, "protocol": "grpc-v2", "layout": "NCHW"},
        expected(**IMAGENET, scale=1 / 255),
    ),
]


@pytest.mark.parametrize(
    ("server", "contract", "probabilities"), CASES, ids=["v1", "v1-named", "v2", "v2-json", "v2-half", "grpc-v2"]
)
async def test_the_tensor_is_the_one_that_the_predictor_wants(
    server: AbstractContextManager[Plain], contract: dict[str, Any], probabilities: list[float]
) -> None:
    with server as plain:
        answer = await ask(plain.address, {**PLAIN, **contract})
    assert by_index(answer.predictions) == pytest.approx(probabilities, abs=2e-3)
    assert answer.predictions[0].score == max(prediction.score for prediction in answer.predictions)
    assert plain.headers["x-request-id"] == "walk"
    assert (answer.model.name, answer.model.version) == ("digits", "unknown" if contract["protocol"] == "v1" else "3")


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"layout": "NCHW"}, Unavailable, r"is the setting predictor_contract right\?"),
        ({"labels": ["one", "two"]}, Unavailable, "expected 2 scores, one a label, seen 6"),
        ({"activation": "probabilities"}, Unavailable, r"are they logits\?"),
        ({"output": "nothing"}, Unavailable, r'expected \{"predictions": \[an object with'),
        ({"model_name": "other"}, NotFound, "no such model"),
    ],
)
async def test_a_wrong_contract_is_no_fault_of_the_image(
    change: dict[str, Any], error: type[Exception], reason: str
) -> None:
    contract = {**PLAIN, "protocol": "v1", "layout": "NHWC", "dtype": "uint8", **change}
    with plain_v1() as plain, pytest.raises(error, match=reason):
        await ask(plain.address, contract)


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
async def test_a_predictor_that_is_away_is_tried_again(protocol: str) -> None:
    with pytest.raises(Unavailable, match="does not answer") as away:
        await ask(f"127.0.0.1:{free_port()}", {**PLAIN, **V2, **FLOATS, "protocol": protocol})
    assert away.value.headers() == {"retry-after": "2"}


async def test_a_change_of_the_contract_or_of_the_version_is_another_model() -> None:
    contract = {**PLAIN, "protocol": "v1", "layout": "NHWC", "dtype": "uint8"}
    with plain_v1() as plain:
        same, again = await ask(plain.address, contract), await ask(plain.address, contract)
        other = await ask(plain.address, {**contract, "interpolation": "nearest"})
    assert same.model.digest == again.model.digest != other.model.digest


def test_a_process_reads_the_contract_from_a_file_with_its_labels_beside(store: Store, tmp_path: Path) -> None:
    fields = {name: value for name, value in {**PLAIN, "protocol": "v1", **FLOATS}.items() if name != "labels"}
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump({**fields, "labels_file": "labels.txt"}))
    options = ("--predictor-contract", str(tmp_path / "contract.yaml"), "--top-k", "6")
    with plain_v1() as plain, running_transformer(tmp_path / "log", store, plain.address, *options) as transformer:
        url = f"{transformer.url}/v1/models/digits:predict"
        response = httpx.post(url, content=picture(), headers={"content-type": "image/png"}, timeout=30)
    assert response.status_code == 200, response.text
    (predictions,) = response.json()["predictions"]
    scores = by_index(Prediction(**prediction) for prediction in predictions)
    assert scores == pytest.approx(expected(**IMAGENET, scale=1 / 255), abs=2e-3)
    assert response.headers["x-whimbrel-model-version"] == "unknown"
    assert response.headers["x-whimbrel-model-digest"].startswith("sha256:")


VALID = {**PLAIN, **V2, **FLOATS}


@pytest.mark.parametrize(
    ("contract", "line"),
    [
        ({**VALID, "layout": "HWC"}, "layout: input should be 'NHWC' or 'NCHW'"),
        ({**VALID, "colour": "bgr"}, "colour: extra inputs are not permitted"),
        ({**VALID, "input": None}, "input, output: expected the names of both tensors for the protocol v2"),
        ({**VALID, "dtype": "uint8"}, "normalisation: expected with a float dtype, and not with uint8"),
        ({**VALID, "normalisation": None}, "normalisation: expected with a float dtype"),
        ({**VALID, "normalisation": {"std": [1, 1, 0]}}, "normalisation: std: expected three numbers above 0"),
        ({**VALID, "dtype": "float16", "binary_tensors": False}, "binary_tensors: expected true for float16"),
        ({**VALID, "resize": "crop"}, "resize_size: given exactly with resize 'crop'"),
        ({**VALID, "size": [0, 8]}, "greater than or equal to 1"),
        ({**VALID, "labels": []}, "labels: tuple should have at least 1 item"),
        ({**VALID, "labels_file": "x"}, "labels_file: expected the name of a file, and no labels beside it"),
        ({}, "protocol: field required"),
        ("[1, 2]\n", "expected an object in YAML or JSON, or the file of one, seen list"),
        ("{a: [}", "expected YAML or JSON"),
        ("/no/such/contract.yaml", "cannot read /no/such/contract.yaml: No such file or directory"),
    ],
)
async def test_a_wrong_contract_ends_the_start_with_one_line(contract: dict[str, Any] | str, line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings_for("predictor", contract)
    assert str(refused.value).startswith("setting WHIMBREL_PREDICTOR_CONTRACT (--predictor-contract): ")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("protocol", "fits"), [("v1", False), ("v2", True), ("grpc-v2", False)])
async def test_the_protocol_of_kserve_and_of_the_contract_are_one(protocol: str, *, fits: bool) -> None:
    if fits:
        settings = settings_for("predictor", VALID, "--predictor-protocol", protocol)
        assert settings.predictor_contract == Contract(**VALID)
        return
    with pytest.raises(SettingsError, match=r"predictor_protocol: expected 'v2' or none, as predictor_contract says"):
        settings_for("predictor", VALID, "--predictor-protocol", protocol)


async def test_the_contracts_own_preset_resizes() -> None:
    contract = contract_of(json.dumps({**VALID, "size": [8, 12], "resize": "crop", "resize_size": 16}))
    assert (contract.preset.height, contract.preset.width, contract.preset.resize_size) == (8, 12, 16)
    assert contract.tensor(np.zeros((8, 12, 3), np.uint8)).shape == (1, 8, 12, 3)
