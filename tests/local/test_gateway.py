"""The gateway in front of real small servers: it waits, streams, passes on, and says what it cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from whimbrel.local.fronting import Fronting
from whimbrel.local.gateway import Gateway, Service
from whimbrel.local.listeners import HttpListener, PassThrough
from whimbrel.local.processes import Address
from whimbrel.local.settings import EngineSettings
from whimbrel.local.state import Ports

pytestmark = pytest.mark.anyio


@dataclass
class Behind:
    """A backend whose readiness the test decides."""

    ready: asyncio.Event = field(default_factory=asyncio.Event)
    http_port: int = 0
    grpc_port: int | None = None
    asked: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    def becomes_ready(self, http_port: int) -> None:
        self.http_port = http_port
        self.ready.set()

    async def address(self, seconds: float) -> Address | None:
        self.asked.put_nowait(None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ready.wait(), seconds)
            return Address(self.http_port, self.grpc_port)
        return None


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def serving(*routes: Route) -> AsyncIterator[int]:
    opened = listening()
    server = HttpListener(Starlette(routes=list(routes)), opened)
    port = int(opened.getsockname()[1])
    await server.start()
    try:
        yield port
    finally:
        await server.stop()


@asynccontextmanager
async def gateway(
    behind: Behind, *, wait_seconds: float = 20, timeout_seconds: float = 30, max_in_flight: int = 100
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's port that routes by host, and `one.default.localhost` as what it asks for."""
    front = Gateway(wait_seconds=wait_seconds, max_in_flight=max_in_flight)
    front.route({"one.default.localhost": Service("one", behind, timeout_seconds)})
    opened = listening()
    listener = HttpListener(front, opened)
    await listener.start()
    url = f"http://127.0.0.1:{opened.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(
            base_url=url, headers={"host": "one.default.localhost"}, timeout=30, trust_env=False
        ) as client:
            yield client
    finally:
        await listener.stop()
        await front.close()


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "body": (await request.body()).decode(),
            "host": request.headers["host"],
            "ce-id": request.headers.get("ce-id"),
        },
        status_code=int(request.query_params.get("status", 200)),
        headers={"retry-after": "7"},
    )


ECHO = Route("/{path:path}", echo, methods=["GET", "POST", "PUT", "DELETE"])


@pytest.mark.parametrize("status", [200, 202, 404, 409, 415, 422, 429, 500, 503])
async def test_a_request_and_its_answer_pass_through_as_they_are(status: int) -> None:
    behind = Behind()
    async with serving(ECHO) as port, gateway(behind) as client:
        behind.becomes_ready(port)

        answer = await client.put(f"/v2/a%2Fb/c?status={status}&x=%20", content=b"body", headers={"ce-id": "1"})

    assert answer.status_code == status
    assert answer.headers["retry-after"] == "7"
    assert answer.json() == {
        "method": "PUT",
        "path": "/v2/a%2Fb/c",
        "query": f"status={status}&x=%20",
        "body": "body",
        "host": "one.default.localhost",
        "ce-id": "1",
    }


async def test_a_request_waits_while_the_process_starts() -> None:
    behind = Behind()
    async with serving(ECHO) as port, gateway(behind) as client:
        waiting = asyncio.create_task(client.post("/", content=b"early"))
        await asyncio.wait_for(behind.asked.get(), 20)
        assert not waiting.done()

        behind.becomes_ready(port)

        assert (await waiting).json()["body"] == "early"


async def test_a_refused_connection_is_tried_again_and_the_body_is_sent_once() -> None:
    behind = Behind()
    with listening() as unused:
        gone = unused.getsockname()[1]
    async with serving(ECHO) as port, gateway(behind) as client:
        behind.becomes_ready(gone)  # its process has ended, which nobody noticed yet
        waiting = asyncio.create_task(client.post("/", content=b"once"))
        for _ in range(3):
            await asyncio.wait_for(behind.asked.get(), 20)
        assert not waiting.done()

        behind.becomes_ready(port)

        assert (await waiting).json()["body"] == "once"


async def test_a_process_that_is_not_ready_in_time_is_503_with_retry_after() -> None:
    async with gateway(Behind(), wait_seconds=0.1) as client:
        answer = await client.post("/", content=b"x")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "one is not ready"


async def test_more_requests_than_allowed_are_503() -> None:
    behind = Behind()
    async with serving(ECHO) as port, gateway(behind, max_in_flight=1) as client:
        first = asyncio.create_task(client.get("/"))
        await asyncio.wait_for(behind.asked.get(), 20)
        refused = await client.get("/")
        behind.becomes_ready(port)
        assert (await first).status_code == 200

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_an_unknown_host_is_404_and_names_the_known_ones() -> None:
    async with gateway(Behind()) as client:
        answer = await client.get("/", headers={"host": "other.default.localhost:1234"})

    assert answer.status_code == 404
    assert answer.json()["error"].endswith("'other.default.localhost'; known are one.default.localhost")


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("127.9.9.9", 200), ("[::1]:80", 200), ("page.example:1", 403)]
)
async def test_a_port_of_a_services_own_takes_loopback_names_alone(tmp_path: Path, host: str, status: int) -> None:
    behind, settings = Behind(), EngineSettings(state=tmp_path)
    async with serving(ECHO) as port, Fronting(Ports(tmp_path), settings) as fronting:
        behind.becomes_ready(port)
        fronting.attach("broker", behind)
        await fronting.start()
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{fronting.port('broker')}/"
            answer = await client.get(url, headers={"host": host})

    assert answer.status_code == status


async def hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def test_no_answer_in_time_is_504() -> None:
    async def never(request: Request) -> Response:
        await hung_up(request)
        return Response()

    behind = Behind()
    async with serving(Route("/", never)) as port, gateway(behind, timeout_seconds=0.2) as client:
        behind.becomes_ready(port)
        answer = await client.get("/")

    assert answer.status_code == 504


async def test_a_process_that_ends_in_the_middle_is_502() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    behind = Behind()
    async with raw_server(die) as port, gateway(behind) as client:
        behind.becomes_ready(port)
        answer = await client.post("/", content=b"x")

    assert answer.status_code == 502


async def test_an_answer_that_breaks_off_is_cut_off_too() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()

    behind = Behind()
    async with raw_server(die) as port, gateway(behind) as client:
        behind.becomes_ready(port)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


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


async def test_a_request_is_passed_on_as_it_comes() -> None:
    seen = asyncio.Event()

    async def collect(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            seen.set()
        return Response(body)

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.wait_for(seen.wait(), 20)
        yield b"second"

    behind = Behind()
    async with serving(Route("/", collect, methods=["POST"])) as port, gateway(behind) as client:
        behind.becomes_ready(port)
        answer = await client.post("/", content=parts())

    assert answer.content == b"firstsecond"


async def test_an_answer_is_passed_on_as_it_comes() -> None:
    seen = asyncio.Event()

    async def slowly(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await seen.wait()
            yield b"second"

        return StreamingResponse(parts())

    behind = Behind()
    async with serving(Route("/", slowly)) as port, gateway(behind) as client:
        behind.becomes_ready(port)
        async with client.stream("GET", "/") as answer:
            received = answer.aiter_bytes()
            assert await anext(received) == b"first"
            seen.set()
            assert await anext(received) == b"second"


async def test_a_client_that_hangs_up_takes_its_request_back() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        started.set()
        await hung_up(request)
        cancelled.set()
        return Response()

    behind = Behind()
    async with serving(Route("/", slow)) as port, gateway(behind) as client:
        behind.becomes_ready(port)
        asking = asyncio.create_task(client.get("/"))
        await asyncio.wait_for(started.wait(), 20)

        asking.cancel()

        await asyncio.wait_for(cancelled.wait(), 20)
    assert asking.cancelled()


async def test_bytes_for_grpc_pass_through_and_wait_for_the_process() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()

    behind = Behind()
    opened = listening()
    front = PassThrough(behind, opened, wait_seconds=20)
    port = opened.getsockname()[1]
    await front.start()
    async with raw_server(shout) as inner:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"early\n")
        behind.grpc_port = inner
        behind.becomes_ready(0)

        assert await asyncio.wait_for(reader.readline(), 20) == b"EARLY\n"
        writer.close()
        await writer.wait_closed()
        await front.stop()
