"""The seam of a task: from a module's raw output to the tensors and predictions of one request.

    module(images) ──► Task.outputs ──► cut by request, joined ──► Task.tensors ──► V2 outputs
    on the device      numpy, a batch                              one request      Task.predictions ──► V1 JSON

A task knows no device, no protocol and no batch. A task of one's own is a class below `Task`, named by a package and
found by `chosen.py`. Where its outputs have the names of classification, detection or pose (`whimbrel.core.tensors`),
the transformer reads them as those: an image's way through the bucket works with it unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import ModelFailed
from whimbrel.core.tensors import OutputTensor
from whimbrel.predictors.network import Description, Outputs

Tensors = dict[str, NDArray[Any]]  # exactly those of `Task.output_tensors`
Predictions = list[list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one request asks for: at most `top_k` labels or objects an image, none below `score_threshold`."""

    top_k: int
    score_threshold: float


class Task(ABC):
    """Made once for a loaded package, which `description` tells of; its methods keep no state between calls."""

    default_top_k: ClassVar[int] = 5  # where neither request nor setting says

    def __init__(self, description: Description) -> None:
        """Raises PackageRefused where the package lacks what the task needs."""
        self.description = description

    @property
    @abstractmethod
    def output_tensors(self) -> tuple[OutputTensor, ...]:
        """Names, datatypes and shapes of what `tensors` gives, as V2's metadata tells them."""

    @abstractmethod
    def outputs(self, raw: Any, images: int, top_k: int) -> Outputs:
        """What `raw`, the module's output for `images` images, says, as numpy arrays whose first axis is `images`.

        Called on the device's thread without gradients, for a batch that may hold several requests; `top_k` is the
        most that one of them wants. Raises ModelFailed for what no module of this task gives. Afterwards an image's
        rows are cut out by the first axis; those of one request are joined again along it, and an array whose other
        axes are shorter than another's is filled with zeros at their end, so some other array has to tell how many
        of its entries are real.
        """

    @abstractmethod
    def tensors(self, outputs: Outputs, wanted: Wanted) -> Tensors:
        """One request's outputs, cut to what it wants. Raises ModelFailed for scores that are no numbers."""

    @abstractmethod
    def predictions(self, tensors: Tensors) -> Predictions:
        """V1's form of what `tensors` gave: of each image a list of objects for JSON, best first."""

    def check_finite(self, values: NDArray[Any], name: str) -> None:
        """`values`: (N, ...). Raises ModelFailed that names the first image with NaN or infinity."""
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            where = f" for images[{int(np.argmin(finite))}]" if len(values) > 1 else ""
            raise ModelFailed(
                f"expected finite {name} of the model {self.description.digest}{where}, seen NaN or infinity"
            )


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of one request's images, which may have been computed in several batches, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: _stacked([part[name] for part in parts]) for name in parts[0]}


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Along the first axis; other axes are as long as the longest, filled with zeros."""
    shape = tuple(max(sides) for sides in zip(*(array.shape[1:] for array in arrays), strict=True))
    if all(array.shape[1:] == shape for array in arrays):
        return np.concatenate(arrays)
    stacked = np.zeros((sum(map(len, arrays)), *shape), arrays[0].dtype)
    first = 0
    for array in arrays:
        stacked[(slice(first, first + len(array)), *map(slice, array.shape[1:]))] = array
        first += len(array)
    return stacked
