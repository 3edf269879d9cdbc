"""The digits recipe: the held-out pictures stay apart, and both networks are as good as they are said to be."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.processes import environment
from whimbrel.core import pt2
from whimbrel.core.package import verify
from whimbrel.mlflow.recipes.digits import TrainedPackage, train_digits
from whimbrel.mlflow.recipes.digits_data import LABELS, held_out, split, validation


def test_the_three_parts_are_apart_and_stratified() -> None:
    parts = (split().train, split().validation, split().held_out)
    everything = np.concatenate([part.indices for part in parts])
    assert sorted(everything) == list(range(1797))
    assert [len(part.indices) for part in parts] == [1167, 180, 450]
    assert np.bincount(split().held_out.labels).min() >= 40


def test_held_out_pictures_decode_to_the_pixels_of_the_evaluation() -> None:
    pictures = held_out()
    assert len(pictures) == 450
    for picture, pixels, label in zip(pictures, split().held_out.images, split().held_out.labels, strict=True):
        decoded = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
        assert np.array_equal(decoded, np.repeat(pixels[:, :, None], 3, axis=2))
        assert picture.label == label


def test_the_pictures_to_compare_by_are_none_of_the_held_out_ones() -> None:
    pictures = {picture.index for picture in validation()}
    assert len(pictures) == 180
    assert pictures.isdisjoint(split().held_out.indices.tolist() + split().train.indices.tolist())


def test_the_pictures_and_the_registry_need_no_torch_and_no_mlflow() -> None:
    code = """
import sys
from whimbrel.mlflow.recipes import digits
from whimbrel.mlflow import packages, register, registry_view
from whimbrel.core import pt2, registry
assert len(digits.held_out()) == 450
sys.exit(", ".join({"torch", "torchvision", "mlflow"} & sys.modules.keys()) or 0)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> TrainedPackage:
    return train_digits("linear", tmp_path_factory.mktemp("trained") / "linear")


@pytest.mark.torch
def test_the_cnn_is_right_on_98_of_100_held_out_digits_and_the_linear_network_on_fewer(
    linear: TrainedPackage, tmp_path: Path
) -> None:
    cnn = train_digits("cnn", tmp_path / "cnn")
    assert cnn.metrics["held_out_accuracy"] >= 0.98
    assert 0.90 <= linear.metrics["held_out_accuracy"] < cnn.metrics["held_out_accuracy"]
    assert cnn.evaluation.images == cnn.metrics["held_out_images"] == 450
    assert cnn.package.manifest.labels == LABELS
    assert (linear.data_digest, linear.package.manifest.preset) == (cnn.data_digest, cnn.package.manifest.preset)


@pytest.mark.torch
def test_a_network_of_shuffled_labels_is_right_by_chance(linear: TrainedPackage, tmp_path: Path) -> None:
    shuffled = train_digits("shuffled", tmp_path / "shuffled")
    assert shuffled.metrics["held_out_accuracy"] < 0.3
    assert shuffled.package.manifest.preset == linear.package.manifest.preset


@pytest.mark.torch
def test_a_trained_package_is_whole_safe_and_always_the_same(linear: TrainedPackage) -> None:
    assert verify(linear.package.folder, linear.package.digest) == linear.package
    pt2.check(linear.package.weights)
    again = train_digits("linear", linear.package.folder)
    assert again.package.digest == linear.package.digest
    assert (
        train_digits("linear", linear.package.folder.with_name("other"), seed=1).package.digest != again.package.digest
    )
