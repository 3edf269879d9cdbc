"""A sink in a process of its own that accepts whatever it is sent, at the cost of finding the end of each request."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

ANSWER = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def null_sink(seconds: float = 0.0) -> Iterator[str]:
    """Its URL. `seconds` is how long each answer takes."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, seconds), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/"
    finally:
        process.terminate()
        process.join(10)


def _serve(port: Connection, seconds: float) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Sink(seconds), "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class _Sink(asyncio.Protocol):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end].lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            whole = end + 4 + int(length or 0)
            if len(self._unread) < whole:
                return
            self._unread = self._unread[whole:]
            if self._seconds:
                asyncio.get_running_loop().call_later(self._seconds, self._transport.write, ANSWER)
            else:
                self._transport.write(ANSWER)
