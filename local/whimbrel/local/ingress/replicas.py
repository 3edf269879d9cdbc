"""The processes of one revision: which takes the next request, who waits, and how much there was to do.

As Knative's activator and queue-proxy: a request takes a place at the least busy process, or waits in a bounded queue
while all are full (`containerConcurrency`) or none is there yet. None is refused because nothing runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from whimbrel.local.processes import Address


class Overflow(Exception):
    """As many requests wait as may."""


class Dismissed(Exception):
    """The traffic has left this revision while a request waited for it: another one may take it."""


@dataclass(eq=False)
class Replica:
    """One process that takes requests."""

    name: str
    address: Address
    in_flight: int = 0
    leaving: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Replicas:
    """`limit` requests at once for each process, 0 for any number; `wanted` is called when one has to wait."""

    def __init__(self, name: str, *, limit: int = 0, most_waiting: int = 1024) -> None:
        self.name = name
        self.limit = limit
        self.wanted: Callable[[], None] = lambda: None
        self._most_waiting = most_waiting
        self._replicas: list[Replica] = []
        self._waiting: deque[asyncio.Future[Replica]] = deque()
        self._load = _Load()

    @property
    def ready(self) -> int:
        return len(self._replicas)

    @property
    def busy(self) -> int:
        """Requests in work and waiting."""
        return self._load.now

    def add(self, name: str, address: Address) -> Replica:
        replica = Replica(name, address)
        self._replicas.append(replica)
        self._serve_waiting()
        return replica

    async def remove(self, replica: Replica, seconds: float) -> bool:
        """Gives it no more requests; whether those that it has were all answered within `seconds`."""
        self.discard(replica)
        if replica.in_flight == 0:
            return True
        try:
            async with asyncio.timeout(seconds):
                await replica.idle.wait()
        except TimeoutError:
            return False
        return True

    def discard(self, replica: Replica) -> None:
        """Gives it no more requests."""
        replica.leaving = True
        if replica in self._replicas:
            self._replicas.remove(replica)

    def arrive(self, now: float) -> None:
        """A request is here; `leave` says that it is gone, however it ended."""
        self._load.change(now, 1)

    def leave(self, now: float) -> None:
        self._load.change(now, -1)

    def sample(self, now: float) -> tuple[float, float]:
        """The average concurrency and the requests a second since the last sample."""
        return self._load.sample(now)

    def dismiss(self) -> None:
        """Nobody waits here any longer."""
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if not each.done():
                each.set_exception(Dismissed)

    async def take(self, seconds: float) -> Replica | None:
        """A place at a process; None when there is none within `seconds`. Raises Overflow, and Dismissed."""
        if not self._waiting and (found := self._free()) is not None:
            found.in_flight += 1
            return found
        if len(self._waiting) >= self._most_waiting:
            raise Overflow
        waiting: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.wanted()
        try:
            async with asyncio.timeout(seconds):
                return await waiting
        except BaseException as error:
            if (
                waiting.done() and not waiting.cancelled() and waiting.exception() is None
            ):  # it got a place in the same instant
                self.give_back(waiting.result())
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            if isinstance(error, TimeoutError):
                return None
            raise

    def give_back(self, replica: Replica) -> None:
        replica.in_flight -= 1
        if replica.leaving and replica.in_flight == 0:
            replica.idle.set()
        self._serve_waiting()

    def _free(self) -> Replica | None:
        found = min(self._replicas, key=lambda each: each.in_flight, default=None)
        if found is None or (self.limit and found.in_flight >= self.limit):
            return None
        return found

    def _serve_waiting(self) -> None:
        while self._waiting and (found := self._free()) is not None:
            waiting = self._waiting.popleft()
            if not waiting.done():
                found.in_flight += 1
                waiting.set_result(found)


@dataclass
class _Load:
    """Concurrency over time, so that its average counts what came and went between two samples."""

    now: int = 0
    _area: float = 0.0
    _changed: float | None = None
    _sampled: float | None = None
    _arrived: int = 0

    def change(self, now: float, by: int) -> None:
        self._advance(now)
        self.now += by
        self._arrived += by > 0

    def sample(self, now: float) -> tuple[float, float]:
        self._advance(now)
        since = now - (self._sampled if self._sampled is not None else now - 1)
        seconds = max(since, 1e-3)
        found = (self._area / seconds, self._arrived / seconds)
        self._area, self._arrived, self._sampled = 0.0, 0, now
        return found

    def _advance(self, now: float) -> None:
        if self._changed is not None:
            self._area += self.now * (now - self._changed)
        self._changed = now
