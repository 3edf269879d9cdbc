"""Decoding off the event loop: on a few threads, admitted against the memory that it may hold at once."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.budget import Budget
from whimbrel.core.errors import Unavailable, UndecodableImage
from whimbrel.core.package import Preset
from whimbrel.transformers.decode import Limits, OpenedImage, open_image, prepare
from whimbrel.transformers.placement import Placement

# A decoding that waits for the processor this many times longer than it may use it: the machine is overloaded.
_PATIENCE = 6


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels`: (height, width, 3) uint8 RGB."""

    pixels: NDArray[np.uint8]
    placement: Placement


class Decoder:
    """Has the threads; `close` them. `budget` is in bytes."""

    def __init__(self, limits: Limits, budget: Budget, *, threads: int, max_seconds: float) -> None:
        self.budget = budget
        self._limits, self._max_seconds = limits, max_seconds
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(self, content: bytes, preset: Preset | None) -> Decoded:
        """As the preset wants it; without one in its own size.

        Raises UnsupportedImage, UndecodableImage or PayloadTooLarge, and Unavailable when there are too many others.
        """
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(self._threads, open_image, content, preset, self._limits)
        if opened.memory > self.budget.total:
            raise UndecodableImage(
                f"expected an image that decodes in {self.budget.total} bytes of memory, seen a {opened.format}"
                f" of {opened.image.width} x {opened.image.height} pixels that takes {opened.memory}"
            )
        taken = await self.budget.take(opened.memory)
        clock = _ThreadClock()
        future = loop.run_in_executor(self._threads, self._prepare, opened, preset, clock)
        # A thread cannot be stopped: its memory is free when it ends, not when its request does.
        future.add_done_callback(lambda done: self._ended(done, taken))
        return Decoded(await self._watched(future, clock), opened.placement)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, opened: OpenedImage, preset: Preset | None, clock: _ThreadClock) -> NDArray[np.uint8]:
        clock.start()
        try:
            return prepare(opened, preset, self._limits)
        except MemoryError:
            raise Unavailable("not enough memory to decode this image now; try again") from None

    def _ended(self, future: asyncio.Future[NDArray[np.uint8]], taken: int) -> None:
        self.budget.give_back(taken)
        if not future.cancelled():
            future.exception()  # read, for the case that nobody waits any longer

    async def _watched(self, future: asyncio.Future[NDArray[np.uint8]], clock: _ThreadClock) -> NDArray[np.uint8]:
        deadline = time.monotonic() + _PATIENCE * self._max_seconds
        while time.monotonic() < deadline:
            done, _ = await asyncio.wait([future], timeout=self._max_seconds)
            if done:
                return future.result()
            if clock.seconds() >= self._max_seconds:
                raise UndecodableImage(
                    f"expected an image that decodes within {self._max_seconds:g} s, seen a longer one"
                )
        raise Unavailable(f"decoding did not end within {_PATIENCE * self._max_seconds:g} s; the machine is overloaded")


class _ThreadClock:
    """The processor time that one thread has used since `start`, read from another thread."""

    def __init__(self) -> None:
        self._clock: int | None = None
        self._started = 0.0

    def start(self) -> None:
        clock = time.pthread_getcpuclockid(threading.get_ident())
        self._started = time.clock_gettime(clock)
        self._clock = clock

    def seconds(self) -> float:
        return 0.0 if self._clock is None else time.clock_gettime(self._clock) - self._started
