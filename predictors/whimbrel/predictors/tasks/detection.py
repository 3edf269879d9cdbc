"""Detection: of each image its objects, as torchvision's networks give them, best first, with boxes in its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import ModelFailed
from whimbrel.core.tensors import BOXES, COUNTS, DETECTION, LABELS, NAMES, OUTPUTS_OF_TASK, SCORES, OutputTensor
from whimbrel.predictors.network import Description, Outputs
from whimbrel.predictors.tasks.task import Predictions, Task, Tensors, Wanted

NO_LABEL = -1  # behind the last object of an image

Objects = dict[str, Any]  # of one image, torch tensors whose first axis is the object


class Detection(Task):
    """The module gives for each image a dict: `boxes` (n, 4), left, top, right, bottom in pixels of its input, `labels`
    (n,) and `scores` (n,)."""

    default_top_k = 100

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._names = np.array(description.labels, dtype=np.object_)

    @property
    def output_tensors(self) -> tuple[OutputTensor, ...]:
        return OUTPUTS_OF_TASK[DETECTION]

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        """What is said of one object, by the name of its tensor, and the shape of it."""
        return {BOXES: (4,), LABELS: (), SCORES: ()}

    def objects_of(self, found: Mapping[str, Any]) -> Objects:
        """The `parts` of one image out of what the module gave for it. Raises KeyError."""
        return {name: found[name] for name in (BOXES, LABELS, SCORES)}

    def outputs(self, raw: Any, images: int, top_k: int) -> Outputs:
        """The `parts` (N, M, ...) float32, labels int64, best first, and `counts` int64 (N,); zeros behind them."""
        best = [self._best(found, top_k) for found in self._images_of(raw, images)]
        counts = np.array([len(objects[SCORES]) for objects in best], np.int64)
        outputs: dict[str, NDArray[Any]] = {COUNTS: counts}
        for name, shape in self.parts.items():
            values = _on_host([objects[name] for objects in best], np.int64 if name == LABELS else np.float32)
            padded = np.zeros((images, int(counts.max()), *shape), values.dtype)
            padded[_real(counts, padded.shape[1])] = values
            outputs[name] = padded
        self._check_labels(outputs[LABELS])
        return outputs

    def tensors(self, outputs: Outputs, wanted: Wanted) -> Tensors:
        for name in self.parts.keys() - {LABELS}:
            self.check_finite(outputs[name], name)
        kept = _real(outputs[COUNTS], outputs[SCORES].shape[1]) & (outputs[SCORES] >= wanted.score_threshold)
        counts = np.minimum(kept.sum(axis=1), wanted.top_k).astype(np.int64)
        most = int(counts.max())
        behind = ~_real(counts, most)
        tensors: Tensors = {COUNTS: counts}
        for name in self.parts:
            tensors[name] = outputs[name][:, :most].copy()
            tensors[name][behind] = NO_LABEL if name == LABELS else 0
        tensors[NAMES] = self._names[tensors[LABELS]]
        tensors[NAMES][behind] = ""
        return tensors

    def predictions(self, tensors: Tensors) -> Predictions:
        """A box as left, top, width, height."""
        rows = {name: array.tolist() for name, array in tensors.items()}
        return [
            [
                self.prediction({name: rows[name][image][number] for name in (*self.parts, NAMES)})
                for number in range(of)
            ]
            for image, of in enumerate(rows[COUNTS])
        ]

    def prediction(self, each: Mapping[str, Any]) -> dict[str, Any]:
        """One object; `each` has its `parts` and name."""
        left, top, right, bottom = each[BOXES]
        box = [left, top, right - left, bottom - top]
        return {"label": each[NAMES], "index": each[LABELS], "score": each[SCORES], "box": box}

    def _images_of(self, raw: Any, images: int) -> Sequence[Mapping[str, Any]]:
        if isinstance(raw, list | tuple) and len(raw) == images and all(isinstance(each, dict) for each in raw):
            return raw
        seen = f"{len(raw)} of them" if isinstance(raw, list | tuple) else type(raw).__name__
        raise ModelFailed(f"expected a network that gives a dict for each of {images} images, seen {seen}")

    def _best(self, found: Mapping[str, Any], top_k: int) -> Objects:
        try:
            objects = self.objects_of(found)
            shapes = {name: tuple(value.shape) for name, value in objects.items()}
        except (KeyError, AttributeError, TypeError) as error:
            raise ModelFailed(f"expected tensors {', '.join(self.parts)} of each image, seen {error!r}") from None
        number = shapes[SCORES][0] if shapes[SCORES] else 0
        expected = {name: (number, *shape) for name, shape in self.parts.items()}
        if shapes != expected:
            raise ModelFailed(f"expected of each image {expected}, seen {shapes}")
        order = objects[SCORES].argsort(descending=True, stable=True)[:top_k]
        return {name: value[order] for name, value in objects.items()}

    def _check_labels(self, labels: NDArray[np.int64]) -> None:
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self._names):
            raise ModelFailed(
                f"expected labels from 0 to {len(self._names) - 1}, as the package names them, seen {labels.min()} to "
                f"{labels.max()}"
            )


def _on_host(parts: Sequence[Any], dtype: Any) -> NDArray[Any]:
    """Of all images together, so that a device is waited for once."""
    import torch

    joined = torch.cat(list(parts)).detach()
    on_host = (joined.float() if joined.is_floating_point() else joined).to("cpu")  # numpy has no bfloat16
    values: NDArray[Any] = on_host.numpy().astype(dtype, copy=False)
    return values


def _real(counts: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """(N, most): whether an object is there."""
    real: NDArray[np.bool_] = np.arange(most) < counts[:, np.newaxis]
    return real
