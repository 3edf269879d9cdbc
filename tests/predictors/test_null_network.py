"""The null predictor's URI: classes, and where given size and prefix, so that versions can differ in all of them."""

from __future__ import annotations

import numpy as np
import pytest

from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import load
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.tasks.task import Wanted


@pytest.mark.parametrize(
    ("uri", "size", "labels"),
    [
        ("null:2", (8, 8), ("class-0", "class-1")),
        ("null:2,16x24", (16, 24), ("class-0", "class-1")),
        ("null:2,bird", (8, 8), ("bird-0", "bird-1")),
        ("null:3,16x24,bird", (16, 24), ("bird-0", "bird-1", "bird-2")),
    ],
)
def test_describes_its_preset_and_labels(uri: str, size: tuple[int, int], labels: tuple[str, ...]) -> None:
    network = null_network(uri)
    description = network.description
    assert (description.preset.height, description.preset.width) == size
    assert description.labels == labels
    image = np.full((1, *size, 3), 4, np.uint8)
    assert network.infer(image, 1)["indices"].tolist() == [[4 % len(labels)]]


def test_what_differs_has_another_digest() -> None:
    uris = ["null:2", "null:3", "null:2,16x16", "null:2,bird", "null:detection:2", "null:pose:2"]
    assert len({null_network(uri).description.digest for uri in uris}) == len(uris)


@pytest.mark.parametrize(
    "uri",
    [
        "null:",
        "null:0",
        "null:2,16",
        "null:2,0x8",
        "null:2,bird,8x8",
        "null:2,Bird",
        "null:2,",
        "null:poetry:2",
        "null:detection",
    ],
)
def test_a_wrong_uri_ends_the_start(uri: str) -> None:
    with pytest.raises(SettingsError, match="WHIMBREL_MODEL_URI"):
        load(PredictorSettings, ["--model-name", "digits", "--model-uri", uri], program="predictors")
    with pytest.raises(ValueError, match=r"expected null:\[TASK:\]CLASSES"):
        null_network(uri)


def test_finds_what_is_bright() -> None:
    network = null_network("null:detection:10,16x32,bird")
    images = np.zeros((2, 16, 32, 3), np.uint8)
    images[0, 2:5, 3:9, 1] = 203
    images[0, 8:16, 20:32, 1] = 255
    tensors = network.task.tensors(network.infer(images, 5), Wanted(5, 0.0))
    assert tensors["counts"].tolist() == [2, 0]
    assert tensors["boxes"][0].tolist() == [[3, 2, 9, 5], [20, 8, 32, 16]]
    assert tensors["names"][0].tolist() == ["bird-3", "bird-5"]
    assert tensors["scores"][0].tolist() == pytest.approx([0.9, 0.81])


def test_a_pose_has_the_corners_of_its_box() -> None:
    network = null_network("null:pose:1,16x16")
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, 2:6, 4:8, 1] = 255
    tensors = network.task.tensors(network.infer(image, 5), Wanted(5, 0.5))
    assert tensors["keypoints"].tolist() == [[[[4, 2, 1], [6, 4, 1], [8, 6, 1]]]]
