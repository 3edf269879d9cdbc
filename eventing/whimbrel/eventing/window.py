"""How many events may be in flight at once: fewer while the sink is overloaded, more while it answers fast.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681), with events for segments: each answer within
`slow_seconds` widens a full window, by one at first, later by one a window; an answer of overload halves it, once for
all that was in flight by then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_FIRST: Final = 32.0


class Limit:
    """The size of the window, between 1 and `most`. Times are seconds of any one clock."""

    def __init__(self, most: int, slow_seconds: float) -> None:
        self._most = float(most)
        self._slow_seconds = slow_seconds
        self._size = min(self._most, _FIRST)
        self._doubling = True
        self._cut_at = float("-inf")

    @property
    def size(self) -> int:
        return int(self._size)

    def answered(self, started: float, now: float, *, full: bool) -> None:
        """One answer that is no sign of overload. `full`: the window was all in use, so a wider one would be too."""
        if full and now - started <= self._slow_seconds:
            self._size = min(self._most, self._size + (1.0 if self._doubling else 1.0 / self._size))

    def overloaded(self, started: float, now: float) -> None:
        """429, 503, or no answer: those that had started before the last cut say nothing new."""
        if started > self._cut_at:
            self._size = max(1.0, self._size / 2)
            self._doubling = False
            self._cut_at = now


class Window:
    """Places in flight, given in the order of asking. The stop sends away all who wait."""

    def __init__(self, limit: Limit, stopping: asyncio.Event) -> None:
        self.limit = limit
        self._stopping = stopping
        self._taken = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._at_stop: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return self._taken >= self.limit.size

    async def take(self) -> bool:
        """Wait for a place; False, and no place, when the stop came first."""
        if self._stopping.is_set():
            return False
        if not self.full and not self._waiting:
            self._taken += 1
            return True
        if self._at_stop is None:
            self._at_stop = asyncio.create_task(self._send_away())
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back; to be called after the limit was told of the answer."""
        self._taken -= 1
        while self._waiting and not self.full:
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(True)

    async def _send_away(self) -> None:
        await self._stopping.wait()
        for place in self._waiting:
            if not place.done():
                place.set_result(False)
        self._waiting.clear()
