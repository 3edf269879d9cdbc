"""Two versions that differ in preset and labels behind a split: no answer mixes them, and every request is answered."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.images import png
from testbed.predictors import Predictor, running_predictor, v2_outputs
from testbed.splitting import Split, splitting
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer

# What each version says of an image by its first pixel.
LABELS = {"7": lambda pixel: f"class-{pixel % 10}", "8": lambda pixel: f"bird-{pixel % 3}"}


@pytest.fixture(scope="module")
def versions(logs: Path) -> Iterator[dict[str, Predictor]]:
    with (
        running_predictor(logs / "stable.log", "--model-version", "7") as stable,
        running_predictor(logs / "canary.log", "--model-version", "8", uri="null:3,16x24,bird") as canary,
    ):
        yield {"7": stable, "8": canary}


@pytest.fixture(scope="module")
def split(versions: dict[str, Predictor]) -> Iterator[Split]:
    with splitting([version.url.removeprefix("http://") for version in versions.values()], [1, 1]) as running:
        yield running


@pytest.fixture(scope="module")
def canary_transformer(store: Store, logs: Path, split: Split) -> Iterator[Transformer]:
    with running_transformer(logs / "canary-transformer.log", store, split.address, "--top-k", "5") as running:
        yield running


@pytest.fixture(scope="module")
def client(canary_transformer: Transformer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=canary_transformer.url, timeout=30) as client:
        yield client


def predicted(client: httpx.Client, pixel: int) -> tuple[str, str]:
    """The version that answered and the best label."""
    image, headers = png(pixel, side=40), {"content-type": "image/png"}
    response = client.post("/v1/models/digits:predict", content=image, headers=headers)
    assert response.status_code == 200, response.text
    (predictions,) = response.json()["predictions"]
    prefix = predictions[0]["label"].split("-")[0]
    assert {label["label"].split("-")[0] for label in predictions} == {prefix}
    return response.headers["x-whimbrel-model-version"], predictions[0]["label"]


def test_no_answer_mixes_two_versions_and_both_answer_their_share(client: httpx.Client, split: Split) -> None:
    split.weights = [1, 1]
    pixels = list(range(160))
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda pixel: predicted(client, pixel), pixels))
    assert [label for _, label in answers] == [LABELS[v](p) for (v, _), p in zip(answers, pixels, strict=True)]
    shares = Counter(version for version, _ in answers)
    assert set(shares) == {"7", "8"}
    assert min(shares.values()) > 40  # of 160: a fair split is below this once in 10^9


def test_a_small_canary_is_not_starved(client: httpx.Client, split: Split) -> None:
    split.weights = [9, 1]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda pixel: predicted(client, pixel), range(160)))
    assert Counter(version for version, _ in answers)["8"] > 2  # 16 expected


@pytest.mark.parametrize("gone", ["7", "8"])
def test_a_version_that_is_gone_costs_no_answer(
    client: httpx.Client, split: Split, versions: dict[str, Predictor], gone: str
) -> None:
    split.weights = [0, 1] if gone == "8" else [1, 0]
    predicted(client, 1)
    split.weights = [1, 0] if gone == "8" else [0, 1]
    (stays,) = set(versions) - {gone}
    assert predicted(client, 5) == (stays, LABELS[stays](5))


def test_the_images_of_one_request_name_who_answered_each(client: httpx.Client, split: Split) -> None:
    split.weights = [1, 1]
    pixels = list(range(24))
    images = [base64.b64encode(png(pixel)).decode() for pixel in pixels]
    document: dict[str, Any] = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": images}]
    }
    response = client.post("/v2/models/digits/infer", json=document)
    assert response.status_code == 200, response.text
    outputs = v2_outputs(response.json())
    assert set(outputs["model_versions"]) == {"7", "8"}
    rows = zip(pixels, outputs["model_versions"], outputs["names"], outputs["indices"], strict=True)
    for pixel, version, names, indices in rows:
        assert names[0] == LABELS[version](pixel)
        assert len([index for index in indices if index >= 0]) == (5 if version == "7" else 3)
    assert "model_version" not in (response.json().get("parameters") or {})
