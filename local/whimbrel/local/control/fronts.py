"""The gateway's port, and one for each service that stays the same while its processes come and go."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

from whimbrel.local.control.routing import Key, RoutePlan
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.listener import Listener
from whimbrel.local.ingress.replicas import Replicas
from whimbrel.local.ingress.routes import Route, Routes, Share
from whimbrel.local.state import Ports

_GATEWAY = "gateway"
BROKER = "broker"
_BROKER_SECONDS = 3600.0  # it answers when it has delivered


class Fronts:
    """`port` may be asked on any thread; the port listens at once, and is answered after the next `follow`."""

    def __init__(self, ports: Ports, gateway_port: int, *, wait_seconds: float, max_in_flight: int) -> None:
        self._ports = ports
        self._lock = threading.Lock()
        self._sockets: dict[str, socket.socket] = {}
        self._listeners: dict[str, Listener] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._routes = Routes()
        self.gate = Gate(self._routes, wait_seconds, max_in_flight)
        self.broker = Replicas(BROKER)
        opened = ports.listener(_GATEWAY, gateway_port)
        self.gateway_port = int(opened.getsockname()[1])
        self._gateway = Listener(self.gate, opened)
        self.port(BROKER)

    async def start(self) -> None:
        await self._gateway.start()
        await self.follow([], lambda _: Replicas("none"))

    def port(self, service: str) -> int:
        with self._lock:
            if service not in self._sockets:
                self._sockets[service] = self._ports.listener(service)
            return int(self._sockets[service].getsockname()[1])

    def known(self, service: str) -> int | None:
        with self._lock:
            found = self._sockets.get(service)
        return int(found.getsockname()[1]) if found else None

    async def follow(self, plans: Sequence[RoutePlan], replicas: Callable[[Key], Replicas]) -> None:
        """Route by these; the ports of services that are no more are closed."""
        by_host, by_service = {}, {BROKER: Route(BROKER, (Share(100, self.broker),), _BROKER_SECONDS)}
        for plan in plans:
            shares = tuple(Share(weight, replicas(key)) for weight, key in plan.shares)
            by_host[plan.host] = Route(plan.name, shares, plan.timeout_seconds)
            if plan.service:
                by_service[plan.service] = by_host[plan.host]
        self._routes.replace(by_host, by_service)
        with self._lock:
            gone = [name for name in self._sockets if name not in by_service]
            opened = {name: found for name, found in self._sockets.items() if name not in self._listeners}
        for name in [name for name in opened if name in by_service]:
            self._listeners[name] = Listener(self.gate, opened[name], name)
            await self._listeners[name].start()
        for name in [name for name in gone if name in self._listeners]:
            listener = self._listeners.pop(name)
            with self._lock:
                self._sockets.pop(name)
            ending = asyncio.create_task(listener.stop())  # what is being answered there holds up nothing else
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        open_ = [self._gateway, *self._listeners.values()]
        await asyncio.gather(*(each.stop() for each in open_), *self._ending)
        for name, opened in self._sockets.items():
            if name not in self._listeners:
                opened.close()
        self.gate.pool.close()
