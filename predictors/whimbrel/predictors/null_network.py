"""A network without weights and without torch: its answer follows from one pixel, so tests know it beforehand."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import numpy as np

from whimbrel.core.package import Preset, digest_of_json
from whimbrel.core.tensors import INDICES, SCORES
from whimbrel.predictors.network import Description, Images, Outputs
from whimbrel.predictors.tasks.chosen import task_of

SCHEMA = "whimbrel.dev/null/v1"
SIDE_PIXELS = 8
PREFIX = "class"
URI = (
    r"null:[1-9][0-9]{0,4}(,[1-9][0-9]{0,3}x[1-9][0-9]{0,3})?(,[a-z][a-z0-9]{0,31})?"  # CLASSES[,HEIGHTxWIDTH][,PREFIX]
)


class NullNetwork:
    """Answers index `images[i, 0, 0, 0] % classes` first, then the indices that follow it.

    `delay_seconds` is how long a batch takes. Labels are `PREFIX-0` and on; the preset stretches to (height, width).
    """

    def __init__(
        self,
        classes: int,
        *,
        size: tuple[int, int] = (SIDE_PIXELS, SIDE_PIXELS),
        prefix: str = PREFIX,
        delay_seconds: float = 0.0,
    ) -> None:
        preset = Preset(height=size[0], width=size[1], resize="stretch")
        labels = tuple(f"{prefix}-{index}" for index in range(classes))
        manifest = {
            "schema": SCHEMA,
            "task": "classification",
            "preset": preset.model_dump(mode="json"),
            "labels": labels,
        }
        self.description = Description("classification", preset, labels, digest_of_json(manifest))
        self.task = task_of(self.description)
        self._delay_seconds = delay_seconds

    def stage(self, parts: Sequence[Images]) -> Images:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def infer(self, images: Images, top_k: int) -> Outputs:
        time.sleep(self._delay_seconds)
        classes = len(self.description.labels)
        first = images[:, 0, 0, :1].astype(np.int64)  # (N, H, W, 3) -> (N, 1)
        ranks = np.arange(min(top_k, classes))
        scores = np.broadcast_to((0.5 ** (ranks + 1)).astype(np.float32), (len(images), len(ranks)))
        return {INDICES: (first + ranks) % classes, SCORES: scores}

    def device_computes(self) -> bool:
        return True

    def close(self) -> None:
        """It has no weights."""


def null_network(uri: str, *, delay_seconds: float = 0.0) -> NullNetwork:
    """The network that a URI of the form `URI` describes; size and prefix may be left out."""
    found = re.fullmatch(URI, uri)
    if found is None:
        raise ValueError(f"expected null:CLASSES[,HEIGHTxWIDTH][,PREFIX], seen {uri!r}")
    classes, *described = uri.removeprefix("null:").split(",")
    size, prefix = (SIDE_PIXELS, SIDE_PIXELS), PREFIX
    for part in described:
        if part[0].isdecimal():
            height, width = part.split("x")
            size = int(height), int(width)
        else:
            prefix = part
    return NullNetwork(int(classes), size=size, prefix=prefix, delay_seconds=delay_seconds)
