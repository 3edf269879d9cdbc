"""Whose batch computes next on a device that several models share: each model in turn, of its versions the one whose
images wait longest.

Without the first, a flood on one model would keep the others waiting for all of it; without the second, versions would
alternate, and what one that was switched away from has accepted would wait twice as long.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Line = list[tuple[float, int, asyncio.Future[None]]]


class Turns:
    """For one event loop."""

    def __init__(self) -> None:
        self._taken = False
        self._lines: dict[str, _Line] = {}  # by model, in the order of their turns; those in which somebody waits
        self._order = itertools.count()

    @asynccontextmanager
    async def turn(self, model_name: str, since: float) -> AsyncIterator[None]:
        """The device, when it is this model's turn and nobody waits for the model who does so since before `since`, a
        time of `time.monotonic`."""
        if self._taken:
            await self._given(model_name, since)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _given(self, model_name: str, since: float) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._lines.setdefault(model_name, []), (since, next(self._order), given))
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given in the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._lines:
            model_name = next(iter(self._lines))
            line = self._lines.pop(model_name)
            _, _, given = heapq.heappop(line)
            if given.done():
                self._lines = {model_name: line, **self._lines} if line else self._lines
                continue
            if line:
                self._lines[model_name] = line  # behind the others
            given.set_result(None)
            return
        self._taken = False
