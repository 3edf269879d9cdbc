"""The seam between serving and computing: what answers a batch of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.package import Preset

Images = NDArray[np.uint8]  # (N, H, W, 3), RGB
Outputs = Mapping[str, NDArray[Any]]  # by the names of the tensor contract; the first axis of each is N


@dataclass(frozen=True, slots=True)
class Description:
    """What a network is, for its clients. `digest` is the package's; `labels[i]` the name of output i."""

    task: str
    preset: Preset
    labels: tuple[str, ...]
    digest: str


class Network(Protocol):
    """Loaded weights on a device. `infer` is called by one thread at a time, and may raise for a bad batch."""

    @property
    def description(self) -> Description: ...

    def infer(self, images: Images, top_k: int) -> Outputs:
        """Classification: `indices` int64 (N, k) and `scores` float32 (N, k), best first, k = min(top_k, classes)."""
        ...
