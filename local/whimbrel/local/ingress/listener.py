"""What listens on the gateway's ports and on those of the services."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.http1 import Inbound, Open

_DRAIN_SECONDS = 5.0
_POLL_SECONDS = 0.01


class Listener:
    """`service` is the one behind this port; None where each request's Host tells."""

    def __init__(self, gate: Gate, listening: socket.socket, service: str | None = None) -> None:
        self._gate, self._socket, self._service = gate, listening, service
        self._open: set[Open] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Inbound(self._gate, self._service, self._open), sock=self._socket
        )

    async def stop(self) -> None:
        """Takes no more; what is being answered has a moment to end."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for connection in list(self._open):
            connection.end_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._open:  # noqa: ASYNC110 - each connection ends by itself, and nothing else counts them
                    await asyncio.sleep(_POLL_SECONDS)
        for connection in list(self._open):
            connection.cut()
