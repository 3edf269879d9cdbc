"""The services in front of the processes: their ports, which stay the same, and the gateway that routes by host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from starlette.types import ASGIApp, Receive, Scope, Send

from whimbrel.local.gateway import Backend, Gateway, Service
from whimbrel.local.listeners import HttpListener, PassThrough
from whimbrel.local.plan import BROKER, Front
from whimbrel.local.processes import Address
from whimbrel.local.settings import EngineSettings
from whimbrel.local.state import Ports

_GATEWAY = "gateway"
_BROKER_FRONT = Front(BROKER, (), timeout_seconds=3600)  # it answers when it has delivered


@dataclass
class _Slot:
    """A backend that is filled in when its process is there; until then it is one that is not ready."""

    backend: Backend | None = field(default=None)

    async def address(self, seconds: float) -> Address | None:
        return await self.backend.address(seconds) if self.backend else None


class Fronting:
    """Opens a port for each service before its process exists, so that whoever calls it waits instead of failing."""

    def __init__(self, ports: Ports, settings: EngineSettings) -> None:
        self._ports = ports
        self._settings = settings
        self._gateway = Gateway(
            wait_seconds=settings.gateway_wait_seconds, max_in_flight=settings.gateway_max_in_flight
        )
        self._slots: dict[str, _Slot] = {}
        self._opened: dict[str, int] = {}
        self._hosts: dict[str, Service] = {}
        self._waiting: list[HttpListener | PassThrough] = []
        self._listeners: list[HttpListener | PassThrough] = []
        self.gateway_port = 0

    async def __aenter__(self) -> Fronting:
        listening = self._ports.listener(_GATEWAY, self._settings.gateway_port)
        self.gateway_port = listening.getsockname()[1]
        self._waiting.append(HttpListener(self._gateway, listening))
        self.open([_BROKER_FRONT])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(listener.stop() for listener in (*self._listeners, *self._waiting)))
        await self._gateway.close()

    def open(self, fronts: Iterable[Front]) -> dict[str, int]:
        """A listening port for each service that has none yet; the ports of all by workload."""
        for front in fronts:
            if front.workload not in self._opened:
                self._open(front)
        self._gateway.route(self._hosts)
        return dict(self._opened)

    async def start(self) -> None:
        """Answer on every port that was opened."""
        while self._waiting:
            listener = self._waiting.pop(0)
            self._listeners.append(listener)
            await listener.start()

    def attach(self, workload: str, backend: Backend) -> None:
        """Put a process behind its service; one that has no service stands alone."""
        if workload in self._slots:
            self._slots[workload].backend = backend

    def port(self, workload: str) -> int:
        return self._opened[workload]

    def known(self, workload: str) -> int | None:
        return self._opened.get(workload)

    def _open(self, front: Front) -> None:
        listening = self._ports.listener(front.workload)
        slot = self._slots[front.workload] = _Slot()
        self._opened[front.workload] = listening.getsockname()[1]
        if front.grpc:
            wait_seconds = self._settings.gateway_wait_seconds
            self._waiting.append(PassThrough(slot, listening, wait_seconds=wait_seconds))
            return
        service = Service(front.workload, slot, front.timeout_seconds)
        self._hosts |= dict.fromkeys(front.hosts, service)
        self._waiting.append(HttpListener(_to(self._gateway, service), listening))


def _to(gateway: Gateway, service: Service) -> ASGIApp:
    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway.forward_loopback(service, scope, receive, send)

    return forward
