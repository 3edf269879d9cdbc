"""What every connection of the gateway shares: the routes, the limit of all requests, and the way to a process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from whimbrel.local import loopback
from whimbrel.local.ingress.outbound import Pool
from whimbrel.local.ingress.replicas import Overflow, Replica, Replicas
from whimbrel.local.ingress.routes import Failure, Route, Routes
from whimbrel.local.processes import Address

_CONNECT_SECONDS = 5.0
_REFUSED_PAUSE_SECONDS = 0.02

Connected = TypeVar("Connected")


@dataclass
class Gate:
    """`wait_seconds` is the longest wait for a process; `max_in_flight` bounds all requests, waiting ones too."""

    routes: Routes
    wait_seconds: float
    max_in_flight: int
    pool: Pool = field(default_factory=Pool)
    in_flight: int = 0

    def route(self, service: str | None, host: str, tag: str = "") -> Route:
        """Where a request goes; `service` is the one behind the port, where its Host is no route. `tag`: of a
        revision, as Knative's header has it.

        Raises Failure. On such a port the Host has to be a loopback name all the same.
        """
        if service is not None and (reason := loopback.refusal(host)):
            raise Failure(403, reason)
        route = self.routes.at_host(host) if service is None else self.routes.of_service(service)
        return self.routes.tagged(route, tag) if tag else route

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One more request. Raises Failure where there are too many."""
        if self.in_flight >= self.max_in_flight:
            raise Failure(503, f"{self.max_in_flight} requests wait already", retry_after_seconds=1)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def reach(
        self, route: Route, replicas: Replicas, connect: Callable[[Address], Awaitable[Connected]]
    ) -> tuple[Replica, Connected]:
        """A place at a process and a connection to it, tried again while that is refused. Raises Failure."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + min(self.wait_seconds, route.timeout_seconds)
        while True:
            replica = await self._place(route, replicas, deadline - clock())
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return replica, await connect(replica.address)
            except (OSError, TimeoutError):
                replicas.give_back(replica)
                await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
            except BaseException:
                replicas.give_back(replica)
                raise

    async def _place(self, route: Route, replicas: Replicas, seconds: float) -> Replica:
        try:
            replica = await replicas.take(seconds) if seconds > 0 else None
        except Overflow:
            said = f"{route.name}: too many requests wait for {replicas.name}"
            raise Failure(503, said, retry_after_seconds=1) from None
        if replica is None:
            raise Failure(503, f"{route.name} is not ready", retry_after_seconds=1)
        return replica
