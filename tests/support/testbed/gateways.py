"""The gateway in front of a revision whose processes a test adds, and small servers to be such processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route as Path

from whimbrel.core.sockets import listening_socket
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.listener import Listener
from whimbrel.local.ingress.replicas import Replica, Replicas
from whimbrel.local.ingress.routes import Route, Routes, Share
from whimbrel.local.processes import Address

HOST = "one.default.localhost"


@dataclass
class Behind:
    """A revision whose processes the test adds, and the ports in front of it."""

    replicas: Replicas
    gateway_port: int
    service_port: int
    routes: Routes

    def becomes_ready(self, port: int) -> Replica:
        return self.replicas.add(f"pod-{port}", Address(port))

    async def waiting(self, count: int) -> None:
        await until(lambda: self.replicas.busy >= count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(*routes: Path) -> AsyncIterator[int]:
    with listening_socket("127.0.0.1", 0) as opened:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=list(routes)), lifespan="off", log_config=None))
        serving = asyncio.create_task(server._serve(sockets=[opened]))
        try:
            yield int(opened.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def gateway(
    *, wait_seconds: float = 20, timeout_seconds: float = 30, max_in_flight: int = 100, limit: int = 0
) -> AsyncIterator[tuple[Behind, httpx.AsyncClient]]:
    """A revision, and a client of the gateway's port that routes by host."""
    replicas = Replicas("one-00001", limit=limit)
    route, routes = Route("one", (Share(100, replicas),), timeout_seconds), Routes()
    routes.replace({HOST: route}, {"one": route})
    gate = Gate(routes, wait_seconds, max_in_flight)
    sockets = [listening_socket("127.0.0.1", 0) for _ in range(2)]
    listeners = [Listener(gate, sockets[0]), Listener(gate, sockets[1], "one")]
    for listener in listeners:
        await listener.start()
    ports = [int(each.getsockname()[1]) for each in sockets]
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        async with httpx.AsyncClient(base_url=url, headers={"host": HOST}, timeout=30, trust_env=False) as client:
            yield Behind(replicas, ports[0], ports[1], routes), client
    finally:
        for listener in listeners:
            await listener.stop()
        gate.pool.close()
    assert replicas.busy == 0


@asynccontextmanager
async def raw_server(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer_and_close, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
