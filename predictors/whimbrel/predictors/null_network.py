"""A network without weights and without torch: its answer follows from one pixel, so tests know it beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from whimbrel.core.package import Preset, digest_of_json
from whimbrel.core.tensors import INDICES, SCORES
from whimbrel.predictors.network import Description, Images, Outputs, joined

SCHEMA = "whimbrel.dev/null/v1"
SIDE_PIXELS = 8


class NullNetwork:
    """Answers index `images[i, 0, 0, 0] % classes` first, then the indices that follow it.

    `delay_seconds` is how long a batch takes. Labels are `class-0` and on; the preset stretches to 8 x 8.
    """

    def __init__(self, classes: int, *, delay_seconds: float = 0.0) -> None:
        preset = Preset(height=SIDE_PIXELS, width=SIDE_PIXELS, resize="stretch")
        labels = tuple(f"class-{index}" for index in range(classes))
        manifest = {
            "schema": SCHEMA,
            "task": "classification",
            "preset": preset.model_dump(mode="json"),
            "labels": labels,
        }
        self.description = Description("classification", preset, labels, digest_of_json(manifest))
        self._delay_seconds = delay_seconds

    def stage(self, parts: Sequence[Images]) -> Images:
        return joined(parts)

    def infer(self, images: Images, top_k: int) -> Outputs:
        time.sleep(self._delay_seconds)
        classes = len(self.description.labels)
        first = images[:, 0, 0, :1].astype(np.int64)  # (N, H, W, 3) -> (N, 1)
        ranks = np.arange(min(top_k, classes))
        scores = np.broadcast_to((0.5 ** (ranks + 1)).astype(np.float32), (len(images), len(ranks)))
        return {INDICES: (first + ranks) % classes, SCORES: scores}
