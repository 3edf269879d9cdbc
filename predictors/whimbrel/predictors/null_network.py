"""A network without weights and without torch: its answer follows from the pixels, so tests know it beforehand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.package import Preset, digest_of_json
from whimbrel.core.tensors import BOXES, CLASSIFICATION, COUNTS, INDICES, KEYPOINTS, LABELS, POSE, SCORES
from whimbrel.predictors.network import Computing, Description, Images, Outputs
from whimbrel.predictors.tasks.chosen import task_of

SCHEMA = "whimbrel.dev/null/v1"
SIDE_PIXELS = 8
PREFIX = "class"
URI = (  # null:[TASK:]CLASSES[,HEIGHTxWIDTH][,MILLISECONDSms][,PREFIX]
    r"null:((detection|pose):)?[1-9][0-9]{0,4}(,[1-9][0-9]{0,3}x[1-9][0-9]{0,3})?"
    r"(,[1-9][0-9]{0,3}ms)?(,[a-z][a-z0-9]{0,31})?"
)
KEYPOINT_NAMES = ("top-left", "centre", "bottom-right")
_BRIGHT = 128


class NullNetwork:
    """Classification: index `images[i, 0, 0, 0] % classes` first, then the indices that follow it.

    Detection: an object is a run of columns with a bright pixel (green of at least 128) in each, from its first to its
    last bright row; its label is the highest green there % classes. They come from left to right, each score 0.9 times
    the one before, from 0.9 on. Pose adds two corners of the box and its centre, with the score 1.

    `delay_seconds` is how long a batch takes. Labels are `PREFIX-0` and on; the preset stretches to (height, width), or
    pads where boxes are found.
    """

    def __init__(
        self,
        classes: int,
        *,
        task: str = CLASSIFICATION,
        size: tuple[int, int] = (SIDE_PIXELS, SIDE_PIXELS),
        prefix: str = PREFIX,
        delay_seconds: float = 0.0,
    ) -> None:
        preset = Preset(height=size[0], width=size[1], resize="stretch" if task == CLASSIFICATION else "pad")
        labels = tuple(f"{prefix}-{index}" for index in range(classes))
        manifest = {"schema": SCHEMA, "task": task, "preset": preset.model_dump(mode="json"), "labels": labels}
        keypoints = KEYPOINT_NAMES if task == POSE else ()
        self.description = Description(task, preset, labels, digest_of_json(manifest), keypoints)
        self.task, self.computing = task_of(self.description), Computing()
        self._delay_seconds = delay_seconds

    def stage(self, parts: Sequence[Images]) -> Images:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def infer(self, images: Images, top_k: int) -> Outputs:
        time.sleep(self._delay_seconds)
        return self._indices(images, top_k) if self.description.task == CLASSIFICATION else self._objects(images)

    def device_computes(self) -> bool:
        return True

    def close(self) -> None:
        """It has no weights."""

    def _indices(self, images: Images, top_k: int) -> Outputs:
        classes = len(self.description.labels)
        first = images[:, 0, 0, :1].astype(np.int64)  # (N, H, W, 3) -> (N, 1)
        ranks = np.arange(min(top_k, classes))
        scores = np.broadcast_to((0.5 ** (ranks + 1)).astype(np.float32), (len(images), len(ranks)))
        return {INDICES: (first + ranks) % classes, SCORES: scores}

    def _objects(self, images: Images) -> Outputs:
        found = [list(_bright_runs(image[..., 1])) for image in images]
        counts = np.array([len(each) for each in found], np.int64)
        shape = (len(images), int(counts.max()))
        boxes, labels = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int64)
        scores = np.broadcast_to((0.9 ** np.arange(1, shape[1] + 1)).astype(np.float32), shape)
        for row, each in enumerate(found):
            for column, (box, peak) in enumerate(each):
                boxes[row, column], labels[row, column] = box, peak % len(self.description.labels)
        outputs: dict[str, NDArray[Any]] = {COUNTS: counts, BOXES: boxes, LABELS: labels, SCORES: scores}
        if self.description.keypoints:
            centres = (boxes[..., :2] + boxes[..., 2:]) / 2
            points = np.stack([boxes[..., :2], centres, boxes[..., 2:]], axis=2)  # (N, M, 4) -> (N, M, 3, 2)
            outputs[KEYPOINTS] = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
        return outputs


def _bright_runs(green: NDArray[np.uint8]) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """The box, as left, top, right, bottom, and the highest value of each run of columns with a bright pixel."""
    bright = green >= _BRIGHT
    edges = np.flatnonzero(np.diff(bright.any(axis=0).astype(np.int8), prepend=0, append=0))
    for left, right in edges.reshape(-1, 2).tolist():
        rows = np.flatnonzero(bright[:, left:right].any(axis=1))
        yield (left, int(rows[0]), right, int(rows[-1]) + 1), int(green[:, left:right].max())


def null_network(uri: str, *, delay_seconds: float = 0.0) -> NullNetwork:
    """The network that a URI of the form `URI` describes; task, size, delay and prefix may be left out."""
    found = re.fullmatch(URI, uri)
    if found is None:
        raise ValueError(f"expected null:[TASK:]CLASSES[,HEIGHTxWIDTH][,MILLISECONDSms][,PREFIX], seen {uri!r}")
    classes, *described = uri.rpartition(":")[2].split(",")
    size, prefix = (SIDE_PIXELS, SIDE_PIXELS), PREFIX
    for part in described:
        if part.endswith("ms") and part[0].isdecimal():
            delay_seconds = int(part.removesuffix("ms")) / 1000
        elif part[0].isdecimal():
            height, width = part.split("x")
            size = int(height), int(width)
        else:
            prefix = part
    task = found[2] or CLASSIFICATION
    return NullNetwork(int(classes), task=task, size=size, prefix=prefix, delay_seconds=delay_seconds)
