"""A network that torch computes in a lower precision says the same, and says in which it computes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whimbrel.core import calibration
from whimbrel.core.attestations import Agreement, Attestations
from whimbrel.core.hardware import Target
from whimbrel.core.package import CALIBRATION, Package, Preset, write_manifest
from whimbrel.mlflow.exported import save_classifier
from whimbrel.predictors.precision import Asked

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
CLASSES, SIDE = 4, 32
PRESET = Preset(height=SIDE, width=SIDE)
LABELS = [f"label-{index}" for index in range(CLASSES)]
WITH_BFLOAT16 = Target(torch=str(torch.__version__), machine="x86_64", instruction_sets=("avx512_bf16",))


def images(count: int) -> Any:
    """Each of one colour, which a network tells apart without doubt."""
    colours = np.array([[250, 5, 5], [5, 250, 5], [5, 5, 250], [250, 250, 250]], np.uint8)
    return np.broadcast_to(colours[np.arange(count) % 4, np.newaxis, np.newaxis], (count, SIDE, SIDE, 3)).copy()


def package(folder: Path, files: list[str], architecture: str, **more: Any) -> Package:
    fields = {"task": "classification", "architecture": architecture, "labels": LABELS, **more}
    preset = PRESET.model_dump(mode="json", exclude_none=True)
    return write_manifest(folder, {**fields, "preset": preset}, [*files, *_set(folder)])


def _set(folder: Path) -> list[str]:
    return [calibration.write(images(calibration.MIN_IMAGES), PRESET, folder)]


def exported(folder: Path, *, decided: bool = True) -> Package:
    """Answers by colour; not `decided`: by differences that bfloat16 cannot hold."""
    weights = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [0.5, 0.5, 0.5]])
    if not decided:
        weights = 1 + torch.tensor([[0.0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 1, 1]]) * 1e-5
    linear = torch.nn.Linear(3, CLASSES, bias=False)
    linear.weight.data = weights
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        module = torch.nn.Sequential(torch.nn.AvgPool2d(SIDE), torch.nn.Flatten(), linear)
        save_classifier(module, (SIDE, SIDE), folder / "model.pt2")
    return package(folder, ["model.pt2"], "pt2")


def built(folder: Path, dtype: Any = torch.float32) -> Package:
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    network = torchvision.models.get_model("resnet18", weights=None, num_classes=CLASSES)
    save_file(
        {name: each.to(dtype) if each.is_floating_point() else each for name, each in network.state_dict().items()},
        folder / "model.safetensors",
    )
    return package(folder, ["model.safetensors"], "torchvision:resnet18", architecture_options={"num_classes": CLASSES})


def load(made: Package, asked: Asked | None = None) -> Any:
    from whimbrel.predictors import torch_network

    return torch_network.load(made, torch.device("cpu"), asked=asked)


def by_index(outputs: Any) -> Any:
    """(N, classes) scores in the order of the labels."""
    return np.take_along_axis(outputs["scores"], outputs["indices"].argsort(), 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_told_is_computed_in(dtype: Any, tmp_path: Path) -> None:
    made = built(tmp_path)
    reference = load(made, Asked("float32")).infer(images(4), CLASSES)
    network = load(made, Asked(dtype))
    outputs = network.infer(network.stage([images(3), images(4)[3:]]), CLASSES)
    assert network.computing.dtype == dtype
    assert outputs["scores"].dtype == np.float32
    atol = 1e-6 if dtype == "float32" else 0.05
    np.testing.assert_allclose(by_index(outputs), by_index(reference), atol=atol)


def test_weights_that_are_stored_lower_are_computed_in_float32_where_that_is_told(tmp_path: Path) -> None:
    from whimbrel.predictors import sources

    made = built(tmp_path, torch.bfloat16)
    assert load(made, Asked("float32")).computing.dtype == "float32"
    assert sources._stored_dtype(made) == "bfloat16"


@pytest.mark.parametrize(
    ("stored", "lower", "times"),
    [("float32", True, 1.5), ("float32", False, 1), ("bfloat16", True, 1), ("bfloat16", False, 2)],
)
def test_the_memory_that_a_load_at_auto_needs_is_what_it_takes(
    stored: str, lower: bool, times: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only weights in float32, on hardware with a lower precision, are there twice, and only until it was measured."""
    from whimbrel.predictors import sources, torch_network
    from whimbrel.predictors.settings import PredictorSettings

    target = WITH_BFLOAT16 if lower else WITH_BFLOAT16.model_copy(update={"instruction_sets": ("avx2",)})
    monkeypatch.setattr(torch_network, "target_of", lambda _: target)
    made = built(tmp_path / "package", getattr(torch, stored))
    options: dict[str, Any] = {"device": "cpu", "calibration_seconds": 600}
    settings = PredictorSettings(model_name="m", model_uri="null:2", model_cache=tmp_path / "cache", **options)
    elsewhere = Agreement(hardware_class="cpu-other", torch="2", dtype="bfloat16", images=200, agreeing=200)
    source = sources.Source("1", made.folder.as_uri(), made.digest, Attestations(agreements=(elsewhere,)))
    weights, batch = made.manifest.files["model.safetensors"].size, settings.max_batch_size * SIDE * SIDE * 3 * 4

    located = sources.locate(source, settings)
    assert sources.needed_bytes(located, settings) == int(times * weights) + batch
    network: Any = sources.build(located, settings)
    taken = sources.taken_bytes(located, network, settings)
    assert sources.needed_bytes(located, settings) == taken
    parameters = sum(each.nbytes for each in network.module.state_dict().values())
    assert abs(taken - batch - parameters) < 0.01 * parameters


@pytest.mark.parametrize(("decided", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_what_agrees_and_says_why(
    decided: bool, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from whimbrel.predictors import torch_network

    monkeypatch.setattr(torch_network, "target_of", lambda _: WITH_BFLOAT16)  # any CPU computes in it, most slowly
    made = exported(tmp_path / "package", decided=decided)
    with caplog.at_level(logging.INFO, "whimbrel.predictors.torch_network"):
        network = load(made, Asked(cache=tmp_path / "cache"))
        again = load(made, Asked(cache=tmp_path / "cache"))
    assert (network.computing.dtype, again.computing.dtype) == (dtype, dtype)
    assert f"computes in {dtype}" in caplog.text
    assert "as measured now" in caplog.text
    assert "as measured here before" in caplog.text
    if decided:
        assert "200 of 200 images (100.00%)" in caplog.text
        assert network.infer(images(4), 1)["indices"].tolist() == [[0], [1], [2], [3]]


def test_without_a_set_auto_is_float32_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from whimbrel.predictors import torch_network

    monkeypatch.setattr(torch_network, "target_of", lambda _: WITH_BFLOAT16)
    fields = exported(tmp_path).manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    without = write_manifest(tmp_path, {key: value for key, value in fields.items() if key != "files"}, ["model.pt2"])
    assert CALIBRATION not in without.manifest.files
    with caplog.at_level(logging.INFO, "whimbrel.predictors.torch_network"):
        assert load(without).computing.dtype == "float32"
    assert "no calibration set" in caplog.text


def test_what_was_measured_is_told_as_the_registry_takes_it(tmp_path: Path) -> None:
    from whimbrel.predictors import torch_network
    from whimbrel.predictors.tasks.classification import Classification

    made = exported(tmp_path)
    network = load(made, Asked("float32"))
    assert isinstance(network.task, Classification)
    device = torch.device("cpu")
    found = torch_network.measured(made, network.module, device, network.task, "bfloat16", asked=Asked())
    assert isinstance(found, Agreement)
    assert (found.agreeing, found.images, found.torch) == (200, 200, str(torch.__version__))


# Of each family one: what a memory layout of (N, H, W, C) must not change.
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_the_layout_of_the_memory_changes_no_answer(name: str, tmp_path: Path) -> None:
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    made = package(
        tmp_path, ["model.safetensors"], f"torchvision:{name}", architecture_options={"num_classes": CLASSES}
    )
    network = load(made)
    assert network._layout is torch.channels_last
    with torch.inference_mode():
        expected = module(torch.from_numpy(images(3)).permute(0, 3, 1, 2).float() / 255).softmax(1).numpy()
    outputs = network.infer(images(3), CLASSES)
    np.testing.assert_allclose(by_index(outputs), expected, rtol=1e-3, atol=1e-5)
