"""One at a time for each key, in the order of asking; different keys do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from whimbrel.eventing.patience import before_stop


@dataclass(slots=True)
class _Chain:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    members: int = 0


class KeyOrder:
    """As many chains as there are keys in work: who bounds the work bounds the memory."""

    def __init__(self) -> None:
        self._chains: dict[Hashable, _Chain] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable, stopping: asyncio.Event) -> AsyncIterator[bool]:
        """Wait for the key's turn and hold it for the block; False, and no turn, when the stop came first."""
        chain = self._chains.setdefault(key, _Chain())
        chain.members += 1
        taken = False
        try:
            taken = await before_stop(chain.lock.acquire(), stopping)  # first come, first served
            yield taken
        finally:
            if taken:
                chain.lock.release()
            chain.members -= 1
            if not chain.members:
                del self._chains[key]
