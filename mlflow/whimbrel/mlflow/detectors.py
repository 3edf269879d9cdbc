"""What torchvision's detectors need besides their weights: one size for all images, and the names of what they find.

They normalise and resize by themselves. So a package's preset leaves the values as they are (mean 0, std 1) and has the
size at which the network computes: its own resizing then finds nothing to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from whimbrel.core.errors import InputRefused
from whimbrel.core.package import Preset
from whimbrel.core.tensors import DETECTION, POSE

BACKGROUND: Final = "__background__"
NORM_EPS: Final = "norm_eps"
_SHORTER_SIDE = 800  # of an image that torchvision's detectors were trained on, where their name says no other
_STEP_PIXELS = 32  # of the coarsest feature map
_EPS_0 = frozenset({"fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"})


@dataclass(frozen=True, slots=True)
class Detector:
    """The fields of model.json that a detector fills otherwise than a classifier."""

    task: str
    options: dict[str, int | float | bool | str]
    preset: Preset
    labels: tuple[str, ...]
    keypoints: tuple[str, ...]


def is_detector(name: str) -> bool:
    from torchvision import models

    return name in models.list_models(module=models.detection) and not name.startswith("maskrcnn")


def detector(
    name: str,
    entry: Any,
    *,
    published: bool,
    labels: Sequence[str] | None,
    keypoints: Sequence[str] | None,
    size: tuple[int, int] | None,
) -> Detector:
    """`entry`: the member of its weights enum that names what is not given; `published`: its weights are taken too.

    Raises InputRefused.
    """
    pose = name.startswith("keypointrcnn")
    if keypoints is not None and not pose:
        raise InputRefused(f"expected no keypoints for {name}, seen {len(keypoints)}")
    _check_background(name, labels)
    names = tuple(labels or entry.meta["categories"])
    points = tuple((keypoints or entry.meta["keypoint_names"]) if pose else ())
    preset, sizes = _preset(name, size)
    options: dict[str, int | float | bool | str] = {
        "num_classes": len(names),
        **sizes,
        **({"num_keypoints": len(points)} if pose else {}),
    }
    if published and name in _EPS_0 and entry.name == "COCO_V1":
        options[NORM_EPS] = 0.0  # as torchvision sets it for these weights, which were trained elsewhere
    return Detector(POSE if pose else DETECTION, options, preset, names, points)


def _check_background(name: str, labels: Sequence[str] | None) -> None:
    """The first output of these is no object; in retinanet and fcos every output is one."""
    if labels is not None and name.startswith(("fasterrcnn", "keypointrcnn", "ssd")) and labels[0] != BACKGROUND:
        raise InputRefused(f"expected {BACKGROUND} as the first label of {name}, its output 0, seen {labels[0]!r}")


def _preset(name: str, size: tuple[int, int] | None) -> tuple[Preset, dict[str, int]]:
    """And the arguments by which the network keeps that size."""
    fixed = re.match(r"ssd(?:lite)?(\d+)", name)
    if fixed is not None:
        side = int(fixed[1])
        if size not in (None, (side, side)):
            raise InputRefused(f"expected no size but {side}x{side} for {name}, which resizes to it, seen {size}")
        return Preset(height=side, width=side), {}
    height, width = size or (_side(name),) * 2
    return (
        Preset(height=height, width=width, resize="pad"),
        {"min_size": min(height, width), "max_size": max(height, width)},
    )


def _side(name: str) -> int:
    """Of a square in which a picture of 4:3, either way up, has the shorter side that the network was trained on."""
    named = re.search(r"_(\d+)_fpn$", name)
    longer = (int(named[1]) if named else _SHORTER_SIDE) * 4 / 3
    return round(longer / _STEP_PIXELS) * _STEP_PIXELS
