"""CUDA graphs of a network for the batch sizes that come often: one launch for a batch instead of one for each kernel.

A graph is recorded for one size, on the thread that computes, once batches of that size have come often enough, and
replayed from then on. How many there are and the memory that they hold are bounded; a network that cannot be recorded
computes as it would without them. None of this has run on a GPU yet, so a setting has to ask for it; which sizes are
recorded is decided here without one.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import torch

MOST_GRAPHS = 8
COMES_OFTEN = 16  # batches; the warm-up computes two or three of a size
MOST_BYTES = 2 * 1024**3
_ROUNDS_BEFORE = 3  # as torch advises: what a network sets up at its first calls is not to be recorded

logger = logging.getLogger(__name__)


class Sizes:
    """Which batch sizes are worth a graph: the first ones that come often."""

    def __init__(self, most: int = MOST_GRAPHS, often: int = COMES_OFTEN) -> None:
        self._most, self._often = most, often
        self._seen = Counter[int]()
        self._chosen = 0

    def is_due(self, size: int) -> bool:
        """One more batch of `size` has come: whether it is to be recorded now. True once for a size."""
        if self._chosen == self._most:
            return False
        self._seen[size] += 1
        if self._seen[size] != self._often:
            return False
        self._chosen += 1
        return True

    def end(self) -> None:
        """Nothing is due any more."""
        self._chosen = self._most


class GraphedModule:
    """Called as `module`, on one thread. What a call gives is overwritten by the next one of the same size."""

    def __init__(self, module: Any, device: torch.device, sizes: Sizes | None = None) -> None:
        self._module, self._device, self._sizes = module, device, sizes or Sizes()
        self._graphs: dict[int, tuple[Any, torch.Tensor, Any]] = {}  # the graph, its input and its output
        self._pool: Any = None
        self._bytes = 0

    def __call__(self, images: torch.Tensor) -> Any:
        size = len(images)
        if size not in self._graphs and self._sizes.is_due(size):
            self._try_to_record(images)
        known = self._graphs.get(size)
        if known is None:
            return self._module(images)
        graph, given, output = known
        given.copy_(images)
        graph.replay()
        return output

    def _try_to_record(self, images: torch.Tensor) -> None:
        before = torch.cuda.memory_reserved(self._device)
        try:
            self._graphs[len(images)] = self._recorded(images)
        except RuntimeError as error:  # what cannot be recorded, and what finds no memory
            logger.info("no CUDA graph for batches of %d, and none any more: %s", len(images), str(error)[:300])
            self._sizes.end()
            return
        self._bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        logger.info("CUDA graph for batches of %d", len(images))
        if self._bytes > MOST_BYTES:
            logger.info("CUDA graphs hold %d bytes: no more of them", self._bytes)
            self._sizes.end()

    def _recorded(self, images: torch.Tensor) -> tuple[Any, torch.Tensor, Any]:
        given = images.clone()
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(_ROUNDS_BEFORE):
                self._module(given)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the other thread goes on copying batches meanwhile
        # aside: by itself it would capture a stream of the first device, and nothing of another one's
        with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
            output = self._module(given)
        self._pool = self._pool or graph.pool()
        return graph, given, output
