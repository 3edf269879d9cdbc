"""An amount of bytes that all requests share: it bounds memory, whatever arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from whimbrel.core.errors import Unavailable

RETRY_AFTER_SECONDS = 2.0
MAX_WAITING = 1000
LEAST_BYTES = 64 * 1024  # what a request costs besides its image, so that even empty ones are bounded


class Budget:
    """Grants in the order of asking, so that a large image is not passed over by small ones for ever.

    Belongs to one event loop. Whoever took must give back exactly that much, once.
    """

    def __init__(self, total: int, unit: str, *, max_wait_seconds: float) -> None:
        self._total, self._unit, self._max_wait_seconds = total, unit, max_wait_seconds
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def total(self) -> int:
        return self._total

    @property
    def free(self) -> int:
        return self._free

    @asynccontextmanager
    async def held(self, amount: int) -> AsyncIterator[None]:
        """`amount` taken for the length of a block."""
        taken = await self.take(amount)
        try:
            yield
        finally:
            self.give_back(taken)

    async def take(self, amount: int) -> int:
        """Wait until `amount` is free and take it; returns what was taken (more than there is takes all).

        Raises Unavailable (503) after `max_wait_seconds`, and at once when MAX_WAITING others wait already.
        """
        amount = min(amount, self._total)
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return amount
        if len(self._waiting) >= MAX_WAITING:
            raise self._exhausted(amount)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (amount, granted)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                await granted
        except BaseException as error:
            self._withdraw(entry)
            if isinstance(error, TimeoutError):
                raise self._exhausted(amount) from None
            raise
        return amount

    def give_back(self, amount: int) -> None:
        self._free += amount
        self._grant()

    def _withdraw(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        amount, granted = entry
        if granted.done() and not granted.cancelled():
            self._free += amount  # granted in the same moment
        elif entry in self._waiting:
            self._waiting.remove(entry)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            amount, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._free -= amount
                granted.set_result(None)

    def _exhausted(self, amount: int) -> Unavailable:
        return Unavailable(
            f"expected {amount} of {self._total} {self._unit} to become free within {self._max_wait_seconds:g} s,"
            f" seen {self._free} free and {len(self._waiting)} waiting; too much at once, try again",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
