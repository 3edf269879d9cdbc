"""One at a time for each key, in the order of joining; different keys do not wait for each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class KeyOrder:
    """As many lines as there are keys in work: who bounds the work bounds the memory."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._lines: dict[Hashable, deque[asyncio.Future[bool]]] = {}  # a key in here is taken
        self._at_stop: asyncio.Task[None] | None = None

    def join(self, key: Hashable) -> Place:
        """The last place of the key's line, as it is now."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = deque()
            return Place(self, key, None)
        if self._at_stop is None:
            self._at_stop = asyncio.create_task(self._send_away())
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line.append(waiting)
        return Place(self, key, waiting)

    def _next(self, key: Hashable) -> None:
        line = self._lines[key]
        while line:
            waiting = line.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return
        del self._lines[key]

    async def _send_away(self) -> None:
        await self._stopping.wait()
        for line in self._lines.values():
            for waiting in line:
                if not waiting.done():
                    waiting.set_result(False)


class Place:
    """One place in the line of a key, which has to be left in any case."""

    __slots__ = ("_key", "_order", "_waiting")

    def __init__(self, order: KeyOrder, key: Hashable, waiting: asyncio.Future[bool] | None) -> None:
        self._order, self._key, self._waiting = order, key, waiting

    async def turn(self) -> bool:
        """Wait for the key's turn; False when the stop came first."""
        return True if self._waiting is None else await self._waiting

    def leave(self) -> None:
        """Let the next one have its turn, or give up one's own place before it came."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()
        elif self._waiting is None or (not self._waiting.cancelled() and self._waiting.result()):
            self._order._next(self._key)
