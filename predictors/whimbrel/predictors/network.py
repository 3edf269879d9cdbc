"""The seam between serving and computing: what answers a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.package import Package, Preset

if TYPE_CHECKING:
    from whimbrel.predictors.tasks.task import Task

Images = NDArray[np.uint8]  # (N, H, W, 3), RGB
Outputs = Mapping[str, NDArray[Any]]  # by names that the task knows; the first axis of each is N


@dataclass(frozen=True, slots=True)
class Description:
    """What a network is, for its clients and its task. `digest` is the package's; `labels[i]` the name of output i."""

    task: str
    preset: Preset
    labels: tuple[str, ...]
    digest: str
    keypoints: tuple[str, ...] = ()


def description_of(package: Package) -> Description:
    manifest = package.manifest
    return Description(manifest.task, manifest.preset, manifest.labels, package.digest, manifest.keypoints)


EAGER, COMPILED = "eager", "compiled"


@dataclass(frozen=True, slots=True)
class Computing:
    """How a loaded network computes: in which dtype, and layer by layer or by compiled code."""

    dtype: str = "none"
    code: str = EAGER


class Network(Protocol):
    """Loaded weights on a device. Each call is made by one thread at a time, and may raise for a bad batch."""

    @property
    def description(self) -> Description: ...

    @property
    def task(self) -> Task: ...

    @property
    def computing(self) -> Computing: ...

    def stage(self, parts: Sequence[Images]) -> Any:
        """The images of one batch, joined and on the device, for `infer`; runs while another batch computes."""
        ...

    def infer(self, images: Any, top_k: int) -> Outputs:
        """`images`: from `stage`, or an array. What `Task.outputs` gives for them, with at least `top_k` labels or
        objects an image where there are so many."""
        ...

    def device_computes(self) -> bool:
        """Whether anything can still be computed there; asked after a batch has failed. A lack of memory is no end."""
        ...

    def close(self) -> None:
        """Let go of the weights; nothing is called after it."""
        ...
