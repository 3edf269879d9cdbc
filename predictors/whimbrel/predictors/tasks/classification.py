"""Classification: (N, classes) logits to the best labels of each image, by softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from whimbrel.core.errors import ModelFailed
from whimbrel.core.tensors import CLASSIFICATION, INDICES, NAMES, OUTPUTS_OF_TASK, SCORES, OutputTensor
from whimbrel.predictors.network import Description, Outputs
from whimbrel.predictors.tasks.task import Predictions, Task, Tensors, Wanted


class Classification(Task):
    """`score_threshold` is not looked at: every image has as many labels as another."""

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._names = np.array(description.labels, dtype=np.object_)

    @property
    def output_tensors(self) -> tuple[OutputTensor, ...]:
        return OUTPUTS_OF_TASK[CLASSIFICATION]

    def outputs(self, raw: Any, images: int, top_k: int) -> Outputs:
        """`indices` int64 (N, k) and `scores` float32 (N, k), best first, k = min(top_k, classes)."""
        expected = (images, len(self._names))
        if getattr(raw, "shape", None) != expected:
            seen = tuple(raw.shape) if hasattr(raw, "shape") else type(raw).__name__
            raise ModelFailed(f"expected a network with output {expected}, seen {seen}")
        scores, indices = raw.float().softmax(dim=1).topk(min(top_k, len(self._names)), dim=1)
        return {INDICES: indices.cpu().numpy(), SCORES: scores.cpu().numpy()}

    def tensors(self, outputs: Outputs, wanted: Wanted) -> Tensors:
        indices, scores = (outputs[name][:, : wanted.top_k] for name in (INDICES, SCORES))
        self.check_finite(scores, SCORES)
        return {
            INDICES: indices.astype(np.int64),
            SCORES: scores.astype(np.float32),
            NAMES: self._names[indices],
        }

    def predictions(self, tensors: Tensors) -> Predictions:
        rows = zip(*(tensors[name].tolist() for name in (NAMES, INDICES, SCORES)), strict=True)
        return [
            [{"label": label, "index": index, "score": score} for label, index, score in zip(*row, strict=True)]
            for row in rows
        ]
