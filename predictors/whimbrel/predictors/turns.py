"""Whose batch computes next, where versions and models share one device: the one whose images wait longest.

Without it they would alternate, and what a version that was switched away from has accepted would wait twice as long.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """For one event loop."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @asynccontextmanager
    async def turn(self, since: float) -> AsyncIterator[None]:
        """The device, when nobody has it who waits since before `since`, a time of `time.monotonic`."""
        if self._taken:
            await self._given(since)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _given(self, since: float) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (since, next(self._order), given))
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given in the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, given = heapq.heappop(self._waiting)
            if not given.done():
                given.set_result(None)
                return
        self._taken = False
