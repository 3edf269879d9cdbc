"""Host memory that batches are joined in, used again and again, and their way to the device on a stream of its own.

On CUDA the memory is pinned, so that the copy runs beside what computes and nobody waits for it on the host: who
computes waits for it on the device, and the memory is taken again only after the copy has read it. On the CPU the same
memory is what the network reads, unpinned, and is taken again when it was read.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from whimbrel.predictors.network import Images

MOST_KEPT = 2  # one batch is staged while another computes


@dataclass(slots=True, eq=False)
class _Buffer:
    """`pixels`: flat uint8. `copied`: a CUDA event behind the last copy out of it."""

    pixels: torch.Tensor
    copied: Any = None

    def is_read(self) -> bool:
        return self.copied is None or bool(self.copied.query())


class Staged:
    """One batch on its way; `len` of it is its number of images. What is dropped without being used gives back, too."""

    def __init__(self, images: torch.Tensor, copied: Any, give_back: weakref.finalize[Any, Staged] | None) -> None:
        self._images, self._copied = images, copied
        self._give_back = give_back

    def __len__(self) -> int:
        return len(self._images)

    @contextmanager
    def on_device(self) -> Iterator[torch.Tensor]:
        """(N, H, W, 3) uint8, for the stream that computes; nobody reads it after that."""
        if self._copied is not None:
            computes = torch.cuda.current_stream(self._images.device)
            computes.wait_event(self._copied)
            self._images.record_stream(computes)  # it was allocated for the stream of the copies
        yield self._images
        if self._give_back is not None:
            self._give_back()


class StagingBuffers:
    """At most MOST_KEPT buffers are kept; where all are in use, a batch gets one of its own, and nobody waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._free: list[_Buffer] = []
        self._returned: deque[_Buffer] = deque()  # until the next batch: a collection, at any line, may give back
        self._lock = threading.Lock()

    def stage(self, parts: Sequence[Images]) -> Staged:
        """The images of `parts`, (N, H, W, 3) uint8 each, joined."""
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        size = int(np.prod(shape))
        buffer = self._taken(size)
        joined = buffer.pixels[:size].view(shape)
        np.concatenate(parts, out=joined.numpy())
        if self._copies is None:
            return self._lent(joined, buffer)
        with torch.cuda.stream(self._copies):
            on_device = joined.to(self._device, non_blocking=True)
            buffer.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            buffer.copied.record(self._copies)
        self._returned.append(buffer)  # its event tells when it may be written to
        return Staged(on_device, buffer.copied, None)

    def _lent(self, images: torch.Tensor, buffer: _Buffer) -> Staged:
        staged = Staged(images, None, None)
        staged._give_back = weakref.finalize(staged, self._returned.append, buffer)
        staged._give_back.atexit = False
        return staged

    def _taken(self, size: int) -> _Buffer:
        """The smallest kept one that is large enough and read; else a new one."""
        with self._lock:
            self._keep_returned()
            fitting = [each for each in self._free if len(each.pixels) >= size and each.is_read()]
            if fitting:
                buffer = min(fitting, key=lambda each: len(each.pixels))
                self._free.remove(buffer)
                return buffer
        return _Buffer(torch.empty(size, dtype=torch.uint8, pin_memory=self._copies is not None))

    def _keep_returned(self) -> None:
        """The largest are kept: they fit every batch. torch lets go of another one once the copy out of it is done."""
        while self._returned:
            self._free.append(self._returned.popleft())
        self._free = sorted(self._free, key=lambda each: len(each.pixels))[-MOST_KEPT:]
