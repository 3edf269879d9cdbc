"""What listens on the gateway's ports: HTTP servers, and a pass-through of bytes for gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from whimbrel.local.gateway import Backend

_DRAIN_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close first
_CHUNK = 64 * 1024
_MAX_CONNECTIONS = 256


class HttpListener:
    """An ASGI application on one port, within a loop that others use too."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",  # one line a port and start says nothing
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        self._server = _Server(config)
        self._socket = listening
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class PassThrough:
    """Bytes both ways between a port and a process's gRPC port; a connection waits while the process starts.

    gRPC's HTTP/2, with its trailers, is not understood here, so a connection is what is routed, not a request.
    """

    def __init__(self, backend: Backend, listening: socket.socket, *, wait_seconds: float) -> None:
        self._backend = backend
        self._socket = listening
        self._wait_seconds = wait_seconds
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._socket, limit=_CHUNK)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        connection = asyncio.create_task(self._pass(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            address = await self._backend.address(self._wait_seconds)
            if address is None or address.grpc_port is None:
                return
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", address.grpc_port, limit=_CHUNK)
            async with _closing(inner_writer):
                await _first_to_end(_copy(reader, inner_writer), _copy(inner_reader, writer))


class _Server(uvicorn.Server):
    """Signals are the engine's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """A connection that breaks has ended; there is nobody to tell."""
    with contextlib.suppress(OSError):
        try:
            yield
        finally:
            writer.close()
            await writer.wait_closed()


async def _first_to_end(*directions: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(_CHUNK):
        writer.write(part)
        await writer.drain()
