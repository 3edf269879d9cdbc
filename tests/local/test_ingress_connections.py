"""What a connection of the gateway survives: early answers, endless heads, pauses, and the other end's farewell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from testbed.gateways import HOST, Behind, gateway, raw_server
from whimbrel.local.ingress import http1
from whimbrel.local.ingress.http2 import Connection, Headers
from whimbrel.local.ingress.outbound import Pool
from whimbrel.local.processes import Address

pytestmark = pytest.mark.anyio

HEAD = f"POST / HTTP/1.1\r\nhost: {HOST}\r\n".encode()
MIB = 1024 * 1024
_ANY_STREAM = 2**31 - 1


async def sent_first(port: int, *parts: bytes) -> bytes:
    """What comes back when all of it is sent before anything is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine too a client has sent all of it before the gateway stops listening."""
    monkeypatch.setattr(http1, "_LINGER_SECONDS", 60.0)


async def test_an_answer_before_the_end_of_a_body_reaches_who_is_still_sending() -> None:
    answered = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge")
        await writer.drain()
        await answered.wait()

    async with raw_server(refuse) as port, gateway() as (behind, _):
        behind.becomes_ready(port)
        parts = (bytes(MIB) for _ in range(32))
        answer = await sent_first(behind.gateway_port, HEAD + b"content-length: 33554432\r\n\r\n", *parts)
        answered.set()

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"large")


async def test_a_head_without_an_end_is_refused_while_it_comes() -> None:
    async with gateway() as (behind, _):
        answer = await sent_first(behind.gateway_port, HEAD, *(b"x" * 1024 for _ in range(1024)))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"a head of more than 65536 bytes" in answer


async def test_a_connection_that_was_paused_answers_whoever_has_it_next() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    class Taken:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def answer_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None: ...

        def answer_part(self, part: bytes) -> None:
            self.parts.append(part)

        def answer_flush(self) -> None: ...

        def pause_request(self) -> None: ...

        def resume_request(self) -> None: ...

    pool = Pool()
    async with raw_server(answer) as port:
        used = []
        for _ in range(2):
            taken, outbound = Taken(), await pool.connect(port)
            outbound.begin(taken, no_body=False)
            outbound.write(b"GET / HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(outbound.done, 20)
            outbound.pause()  # as a client does that reads slowly
            pool.keep(port, outbound)
            used.append((outbound, b"".join(taken.parts)))
        pool.close()

    (first, one), (second, other) = used
    assert first is second
    assert one == other == b"ok"


# HTTP/2, with the gateway's own connection at the other ends


class Asked:
    """A client's stream, or a process's that answers 200 at the end of each request."""

    def __init__(self, process: Process | None = None, number: int = 0) -> None:
        self._process, self._number = process, number
        self.status = b""
        self.over = asyncio.Event()

    def on_headers(self, headers: Headers, *, end: bool) -> None:
        self.status = next((bytes(value) for name, value in headers if bytes(name) == b":status"), b"")
        self._end(end)

    def on_data(self, data: bytes, received: int, *, end: bool) -> None:
        self._end(end)

    def on_reset(self, code: int) -> None:
        self.over.set()

    def _end(self, end: bool) -> None:
        if end and self._process is not None:
            self._process.answer_at_last(self._number)
        if end:
            self.over.set()


class Process(Connection):
    """A process's end of a connection. `farewell`: said before each answer, with this as the last stream."""

    def __init__(self, farewell: int | None = None) -> None:
        super().__init__(lambda number: Asked(self, number))
        self._farewell = farewell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def answer_at_last(self, number: int) -> None:
        if self._farewell is not None:
            self.say_farewell(self._farewell)
        self.answer(number, [(b":status", b"200")], end=True)

    def say_farewell(self, last: int) -> None:
        """GOAWAY: what has been asked up to this stream is answered, and nothing more."""
        self.transport.write(b"\0\0\x08\x07\0" + bytes(4) + last.to_bytes(4, "big") + bytes(4))


@asynccontextmanager
async def process(behind: Behind, *farewells: int | None) -> AsyncIterator[list[Process]]:
    """Its connections, each with its farewell, those after them without one."""
    loop, connections, given = asyncio.get_running_loop(), list[Process](), iter(farewells)

    def connected() -> Process:
        connections.append(Process(next(given, None)))
        return connections[-1]

    listening = await loop.create_server(connected, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    behind.replicas.add("one", Address(port, port))
    try:
        yield connections
    finally:
        listening.close()
        for connection in connections:
            connection.transport.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop


async def asked(client: Connection, authority: str, body: bytes = b"") -> Asked:
    """One request, over."""
    stream = Asked()
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", authority.encode())]
    gone = asyncio.Event()
    number = client.open(stream, headers, end=False)
    client.send(number, body, gone.set)
    client.end(number)
    async with asyncio.timeout(60):
        await stream.over.wait()
        await gone.wait()
    client.forget(number)
    return stream


async def test_credit_for_what_nobody_takes_is_given_back() -> None:
    """Twice as much as a connection may have on the way at once, each of it refused."""
    async with gateway() as (behind, _):
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Connection(None), "127.0.0.1", behind.gateway_port)
        statuses = [(await asked(client, "unknown.localhost", bytes(MIB // 2))).status for _ in range(36)]
        client.close()

    assert statuses == [b"404"] * 36


async def test_after_a_farewell_the_next_requests_take_another_connection() -> None:
    loop = asyncio.get_running_loop()
    async with gateway() as (behind, _), process(behind) as connections:
        _, client = await loop.create_connection(lambda: Connection(None), "127.0.0.1", behind.gateway_port)
        statuses = [(await asked(client, HOST)).status]
        connections[0].say_farewell(_ANY_STREAM)
        async with asyncio.timeout(60):
            while len(connections) == 1:  # what is asked before it is read is answered too
                statuses.append((await asked(client, HOST)).status)
        client.close()

    assert set(statuses) == {b"200"}


@pytest.mark.parametrize(("last", "status"), [(_ANY_STREAM, b"200"), (1, b"200"), (0, b"502")])
async def test_what_was_asked_before_a_farewell_is_answered_after_it(last: int, status: bytes) -> None:
    """Unless it says that the request was not looked at."""
    loop = asyncio.get_running_loop()
    async with gateway() as (behind, _), process(behind, last):
        _, client = await loop.create_connection(lambda: Connection(None), "127.0.0.1", behind.gateway_port)
        first, second = (await asked(client, HOST), await asked(client, HOST))
        client.close()

    assert (first.status, second.status) == (status, b"200")
