"""Packages of networks from elsewhere: torchvision's by name, exported ones from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed import pt2_archives
from whimbrel.core import calibration
from whimbrel.core.errors import InputRefused, PackageRefused, Unavailable
from whimbrel.core.package import WEIGHTS, Preset, verify
from whimbrel.mlflow.detectors import detector
from whimbrel.mlflow.packages import import_exported, import_torchvision

pytestmark = pytest.mark.torch

PRESET = Preset(height=1, width=1)


def test_random_weights_bring_the_preset_and_labels_of_the_architecture(tmp_path: Path) -> None:
    package = import_torchvision("squeezenet1_1", "none", tmp_path / "package")
    preset = package.manifest.preset
    assert (preset.height, preset.resize, preset.resize_size, preset.interpolation) == (224, "crop", 256, "bilinear")
    assert (package.manifest.architecture, package.manifest.labels[0]) == ("torchvision:squeezenet1_1", "tench")
    assert import_torchvision("squeezenet1_1", "none", tmp_path / "again").digest == package.digest
    from_file = import_torchvision("squeezenet1_1", str(package.weights), tmp_path / "file")
    assert (from_file.folder / WEIGHTS).read_bytes() == package.weights.read_bytes()


def test_own_labels_change_the_number_of_outputs(tmp_path: Path) -> None:
    package = import_torchvision("squeezenet1_1", "none", tmp_path / "package", labels=["cat", "dog"])
    assert package.manifest.labels == ("cat", "dog")
    assert package.manifest.architecture_options == {"num_classes": 2}
    with pytest.raises(PackageRefused, match="expected the weights of torchvision's squeezenet1_1"):
        import_torchvision("squeezenet1_1", str(package.weights), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_torchvision_does_not_have_is_refused_with_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="resnet50 is one"):
        import_torchvision("nonesuch", "none", tmp_path / "package")
    with pytest.raises(InputRefused, match="IMAGENET1K_V1, DEFAULT, none"):
        import_torchvision("squeezenet1_1", "IMAGENET1K_V9", tmp_path / "package")
    with pytest.raises(InputRefused, match="no such file"):
        import_torchvision("squeezenet1_1", str(tmp_path / "weights.safetensors"), tmp_path / "package")
    (tmp_path / "weights.safetensors").write_bytes(b"a pickle")
    with pytest.raises(PackageRefused, match="expected safetensors"):
        import_torchvision("squeezenet1_1", str(tmp_path / "weights.safetensors"), tmp_path / "package")


def test_weights_that_cannot_be_had_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # no network, wherever this runs
    with pytest.raises(Unavailable, match=r"weights DEFAULT|IMAGENET1K_V1 .* cannot be had") as caught:
        import_torchvision("squeezenet1_1", "DEFAULT", tmp_path / "package")
    assert "\n" not in str(caught.value)


def test_an_exported_file_becomes_a_package(tmp_path: Path) -> None:
    file = pt2_archives.write(tmp_path / "net.pt2", pt2_archives.entries() | {"extra/notes.txt": b"left out"})
    with pytest.raises(PackageRefused, match=r"give \(N, 2\), seen \[\(1, 3, 1, 1\), \(3, 3, 1, 1\)\]"):
        import_exported(file, tmp_path / "package", labels=["cat", "dog"], preset=PRESET)
    assert list(tmp_path.iterdir()) == [file]


def test_a_network_with_the_right_outputs_is_taken(tmp_path: Path) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (torch.zeros(2, 3, 1, 1),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    package = import_exported(tmp_path / "net.pt2", tmp_path / "package", labels=["cat", "dog"], preset=PRESET)
    assert verify(tmp_path / "package", package.digest).manifest.labels == ("cat", "dog")
    images = np.random.default_rng(0).integers(0, 256, (calibration.MIN_IMAGES, 1, 1, 3), np.uint8)
    with_set = import_exported(
        tmp_path / "net.pt2", tmp_path / "set", labels=["cat", "dog"], preset=PRESET, calibrate=lambda _: images
    )
    found = calibration.read(with_set)
    assert found is not None
    assert np.array_equal(found, images)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    file = pt2_archives.write(tmp_path / "net.pt2", pt2_archives.entries())
    with pytest.raises(InputRefused, match="name another"):
        import_exported(file, tmp_path, labels=["cat"], preset=PRESET)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "size", "resize", "sizes"),
    [
        ("ssdlite320_mobilenet_v3_large", (320, 320), "stretch", {}),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", (416, 416), "pad", {"min_size": 416, "max_size": 416}),
    ],
)
def test_a_detector_is_resized_once(
    name: str, size: tuple[int, int], resize: str, sizes: dict[str, int], tmp_path: Path
) -> None:
    manifest = import_torchvision(name, "none", tmp_path / "package").manifest
    preset = manifest.preset
    assert ((preset.height, preset.width), preset.resize) == (size, resize)
    assert (preset.mean, preset.std) == ((0, 0, 0), (1, 1, 1))
    assert (manifest.task, manifest.labels[:2], len(manifest.labels)) == ("detection", ("__background__", "person"), 91)
    assert manifest.architecture_options == {"num_classes": 91, **sizes}


def test_a_pose_names_its_keypoints(tmp_path: Path) -> None:
    package = import_torchvision(
        "keypointrcnn_resnet50_fpn",
        "none",
        tmp_path / "package",
        labels=["__background__", "bird"],
        keypoints=["beak", "tail"],
        size=(96, 128),
    )
    manifest = package.manifest
    assert (manifest.task, manifest.keypoints) == ("pose", ("beak", "tail"))
    assert manifest.architecture_options == {"num_classes": 2, "num_keypoints": 2, "min_size": 96, "max_size": 128}


def test_published_weights_of_a_detector_bring_names_and_the_eps_of_their_norms() -> None:
    from torchvision import models

    pose = models.get_model_weights("keypointrcnn_resnet50_fpn")["COCO_V1"]
    found = detector("keypointrcnn_resnet50_fpn", pose, published=True, labels=None, keypoints=None, size=None)
    assert (found.labels, found.keypoints[0], len(found.keypoints)) == (("no person", "person"), "nose", 17)
    assert (found.preset.height, found.options["norm_eps"], found.options["min_size"]) == (1056, 0.0, 1056)


@pytest.mark.parametrize(
    ("name", "given", "refusal"),
    [
        ("ssd300_vgg16", {"size": (320, 320)}, "no size but 300x300"),
        ("ssd300_vgg16", {"labels": ["cat"]}, "__background__ as the first label of ssd300_vgg16"),
        ("ssd300_vgg16", {"keypoints": ["tail"]}, "no keypoints"),
        ("squeezenet1_1", {"size": (64, 64)}, "neither keypoints nor size"),
        ("maskrcnn_resnet50_fpn", {}, "for classification, detection or pose, seen 'maskrcnn_resnet50_fpn'"),
    ],
)
def test_what_does_not_fit_a_network_is_refused(name: str, given: dict[str, Any], refusal: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=refusal):
        import_torchvision(name, "none", tmp_path / "package", **given)


def test_an_exported_network_may_be_for_a_task_of_ones_own(tmp_path: Path) -> None:
    file = pt2_archives.write(tmp_path / "net.pt2", pt2_archives.entries())
    package = import_exported(file, tmp_path / "package", labels=["cat"], preset=PRESET, task="acme.tags")
    assert package.manifest.task == "acme.tags"
    with pytest.raises(InputRefused, match="expected torchvision:NAME for detection"):
        import_exported(file, tmp_path / "other", labels=["cat"], preset=PRESET, task="detection")
