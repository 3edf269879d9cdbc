"""Objects and keypoints behind the seam are those of torchvision's own forward, in batches of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whimbrel.core.errors import ModelFailed, PackageRefused
from whimbrel.core.package import Package, Preset, write_manifest
from whimbrel.predictors.network import Description
from whimbrel.predictors.tasks.chosen import task_of
from whimbrel.predictors.tasks.detection import Detection
from whimbrel.predictors.tasks.task import Wanted, joined

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

LABELS = ("__background__", "cat", "dog")
KEYPOINTS = ("beak", "tail")
ALL = Wanted(1000, 0.0)
SIZE = (96, 128)
RCNN = {"min_size": 96, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 7}
NETWORKS: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {"score_thresh": 0.0, "detections_per_img": 7},
    "fasterrcnn_mobilenet_v3_large_320_fpn": RCNN,
    "keypointrcnn_resnet50_fpn": RCNN | {"num_keypoints": len(KEYPOINTS)},
}


def task(name: str = "detection") -> Any:
    keypoints = KEYPOINTS if name == "pose" else ()
    return task_of(Description(name, Preset(height=96, width=128), LABELS, "sha256:" + "0" * 64, keypoints))


def objects(*scores: float, **more: Any) -> dict[str, Any]:
    """What a module gives for one image: boxes (i, i, i + 2, i + 4), labels 1 and 2 in turns."""
    corners = torch.arange(len(scores)).float()[:, None]
    boxes = corners + torch.tensor([[0.0, 0, 2, 4]])
    return {"boxes": boxes, "labels": 1 + torch.arange(len(scores)) % 2, "scores": torch.tensor(scores), **more}


def built(name: str) -> Any:
    """A network with random weights whose boxes are spread over many scores."""
    import torchvision

    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": len(LABELS), **NETWORKS[name]}
    return torchvision.models.get_model(name, **options).eval()


def package_of(folder: Path, name: str, weights: dict[str, Any], **fields: Any) -> Package:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    pose = name.startswith("keypoint")
    manifest = {
        "task": "pose" if pose else "detection",
        "architecture": f"torchvision:{name}",
        "architecture_options": {"num_classes": len(LABELS), **NETWORKS[name]},
        "preset": {"height": SIZE[0], "width": SIZE[1], "resize": "pad"},
        "labels": LABELS,
        "keypoints": KEYPOINTS if pose else (),
    }
    return write_manifest(folder, manifest | fields, ["model.safetensors"])


def load(package: Package) -> Any:
    from whimbrel.predictors import torch_network

    return torch_network.load(package, torch_network.choose_device("cpu"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_objects_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    module = built(name)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = module([image.permute(2, 0, 1) / 255 for image in torch.from_numpy(pixels)])

    network = load(package_of(tmp_path, name, module.state_dict()))
    tensors = network.task.tensors(network.infer(network.stage([pixels[:1], pixels[1:]]), 100), ALL)

    assert tensors["counts"].tolist() == [len(each["scores"]) for each in expected]
    assert max(tensors["counts"]) > 1
    for row, each in enumerate(expected):
        count = len(each["scores"])
        for part in ("boxes", "labels", "scores"):
            np.testing.assert_allclose(tensors[part][row, :count], each[part].numpy(), rtol=1e-4, atol=1e-3)
        assert tensors["names"][row, :count].tolist() == [LABELS[label] for label in each["labels"]]
        if "keypoints" in tensors:
            np.testing.assert_allclose(
                tensors["keypoints"][row, :count, :, :2], each["keypoints"][..., :2].numpy(), rtol=1e-4, atol=1e-3
            )
            np.testing.assert_allclose(
                tensors["keypoints"][row, :count, :, 2], each["keypoints_scores"].sigmoid().numpy(), rtol=1e-4
            )


def test_weights_as_torchvision_publishes_them_load(tmp_path: Path) -> None:
    """Frozen norms count no batches, and for some weights torchvision sets their eps."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    published = {key: value for key, value in built(name).state_dict().items() if "num_batches_tracked" not in key}
    options = {"num_classes": len(LABELS), **NETWORKS[name], "norm_eps": 0.25}
    network = load(package_of(tmp_path, name, published, architecture_options=options))
    norms = [module for module in network.module.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {module.eps for module in norms} == {0.25}


def test_an_image_is_not_normalised_twice(tmp_path: Path) -> None:
    name, preset = "ssdlite320_mobilenet_v3_large", {"height": 320, "width": 320, "mean": (0.5, 0.5, 0.5)}
    with pytest.raises(PackageRefused, match="mean 0 and std 1, since ssdlite320_mobilenet_v3_large normalises"):
        load(package_of(tmp_path, name, {"w": torch.zeros(1)}, preset=preset))


def test_a_pose_without_names_of_keypoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="keypoints"):
        load(package_of(tmp_path, "keypointrcnn_resnet50_fpn", {"w": torch.zeros(1)}, keypoints=()))


def test_what_is_behind_the_last_object_is_filled() -> None:
    tensors = task().tensors(task().outputs([objects(0.5, 0.9), objects(), objects(0.7)], 3, 100), ALL)
    assert tensors["counts"].tolist() == [2, 0, 1]
    assert tensors["labels"].tolist() == [[2, 1], [-1, -1], [1, -1]]
    assert tensors["names"].tolist() == [["dog", "cat"], ["", ""], ["cat", ""]]
    assert tensors["scores"].tolist() == pytest.approx(np.array([[0.9, 0.5], [0, 0], [0.7, 0]]))
    assert tensors["boxes"].tolist() == [[[1, 1, 3, 5], [0, 0, 2, 4]], [[0] * 4] * 2, [[0, 0, 2, 4], [0] * 4]]


def test_objects_of_a_lower_precision_are_told_in_float32() -> None:
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in objects(0.5).items()}
    assert {name: array.dtype for name, array in task().outputs([half], 1, 10).items()} == {
        "boxes": np.float32,
        "scores": np.float32,
        "labels": np.int64,
        "counts": np.int64,
    }


def test_a_request_gets_what_it_wants_of_a_batch() -> None:
    found = task().outputs([objects(0.9, 0.8, 0.3), objects(0.6)], 2, 100)
    assert task().tensors(found, Wanted(100, 0.5))["counts"].tolist() == [2, 1]
    assert task().tensors(found, Wanted(1, 0.0))["boxes"].shape == (2, 1, 4)
    none = task().tensors(found, Wanted(100, 0.95))
    assert {name: array.shape for name, array in none.items()} == {
        "boxes": (2, 0, 4),
        "labels": (2, 0),
        "scores": (2, 0),
        "names": (2, 0),
        "counts": (2,),
    }
    assert task().predictions(none) == [[], []]


def test_pieces_of_different_widths_are_joined() -> None:
    points = torch.tensor([[[5.0, 6, 1], [7, 8, 1]]])
    pose = task("pose")
    one = pose.outputs([objects(0.9, keypoints=points, keypoints_scores=torch.zeros(1, 2))], 1, 100)
    none = pose.outputs(
        [objects(keypoints=torch.zeros(0, 2, 3), keypoints_scores=torch.zeros(0, 2)) for _ in range(2)], 2, 100
    )
    tensors = pose.tensors(joined([none, one]), ALL)
    assert tensors["counts"].tolist() == [0, 0, 1]
    assert tensors["keypoints"][2].tolist() == [[[5, 6, 0.5], [7, 8, 0.5]]]
    assert pose.predictions(tensors)[2] == [
        {
            "label": "cat",
            "index": 1,
            "score": pytest.approx(0.9),
            "box": [0, 0, 2, 4],
            "keypoints": [[5, 6, 0.5], [7, 8, 0.5]],
        }
    ]


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (torch.zeros(1, 3), "a dict for each of 1 images, seen Tensor"),
        ([], "seen 0 of them"),
        ([{"boxes": torch.zeros(1, 4)}], "labels"),
        ([objects(0.5) | {"boxes": torch.zeros(1, 5)}], r"\(1, 5\)"),
        ([objects(0.5) | {"labels": torch.tensor([3])}], "labels from 0 to 2"),
    ],
)
def test_what_no_detector_gives_is_the_models_fault(raw: Any, seen: str) -> None:
    with pytest.raises(ModelFailed, match=seen):
        task().outputs(raw, 1, 10)


def test_a_box_without_numbers_is_the_models_fault() -> None:
    broken = objects(0.5) | {"boxes": torch.tensor([[0, 0, float("nan"), 1]])}
    with pytest.raises(ModelFailed, match=r"finite boxes of the model .* for images\[1\]"):
        task().tensors(task().outputs([objects(0.9), broken], 2, 10), ALL)


def test_the_metadata_names_the_keypoints_number() -> None:
    assert isinstance(task("pose"), Detection)
    assert task("pose").output_tensors[-1].shape == (-1, -1, 2, 3)
