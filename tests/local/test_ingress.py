"""The gateway in front of real small servers: it waits, streams, passes on, and says what it cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Path

from testbed.gateways import HOST, gateway, raw_server, serving, until
from whimbrel.core.sockets import listening_socket
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.replicas import Replicas
from whimbrel.local.ingress.routes import Failure, Route, Routes, Share
from whimbrel.local.processes import Address

pytestmark = pytest.mark.anyio


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


ECHO = Path("/{path:path}", echo, methods=["GET", "POST", "PUT", "DELETE"])


@pytest.mark.parametrize("status", [200, 202, 404, 409, 415, 422, 429, 500, 503])
async def test_a_request_and_its_answer_pass_through_as_they_are(status: int) -> None:
    async with serving(ECHO) as port, gateway() as (behind, client):
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


async def test_a_tag_leads_to_its_revision_and_to_nothing_else() -> None:
    """By its host, and by Knative's header at the service's own host."""
    replicas = [Replicas("one-00001"), Replicas("one-00002")]
    one, latest = (
        Route(name, (Share(100, each),), 30) for name, each in zip(("one", "latest-one"), replicas, strict=True)
    )
    routes = Routes()
    routes.replace({HOST: one, f"latest-{HOST}": latest}, {"one": one})
    gate = Gate(routes, 20, 100)

    assert gate.route(None, f"latest-{HOST}") is gate.route(None, HOST, "latest") is latest
    assert gate.route("one", "127.0.0.1", "latest") is latest
    assert gate.route("one", "127.0.0.1") is one
    with pytest.raises(Failure, match="one has no revision with the tag 'prev'"):
        gate.route("one", "127.0.0.1", "prev")


async def test_a_request_waits_while_the_process_starts() -> None:
    async with serving(ECHO) as port, gateway() as (behind, client):
        waiting = asyncio.create_task(client.post("/", content=b"early"))
        await behind.waiting(1)
        assert not waiting.done()

        behind.becomes_ready(port)

        assert (await waiting).json()["body"] == "early"


async def test_who_waits_for_a_revision_that_loses_its_traffic_is_answered_by_the_other() -> None:
    """As at a rollback from one that crashes; whoever asks it by its tag waits on."""
    other = Replicas("one-00002")
    async with serving(ECHO) as port, gateway() as (behind, client):
        tagged = Route("latest-one", (Share(100, behind.replicas),), 30)
        before = Route("one", (Share(100, behind.replicas),), 30)
        behind.routes.replace({HOST: before, f"latest-{HOST}": tagged}, {"one": before})
        waiting = [
            asyncio.create_task(client.post("/", content=name.encode(), headers={"host": name}))
            for name in (HOST, f"latest-{HOST}")
        ]
        await behind.waiting(2)
        other.add("pod", Address(port))
        after = Route("one", (Share(0, behind.replicas), Share(100, other)), 30)
        behind.routes.replace({HOST: after, f"latest-{HOST}": tagged}, {"one": after})

        assert (await waiting[0]).json()["host"] == HOST
        assert (behind.replicas.busy, waiting[1].done()) == (1, False)
        behind.becomes_ready(port)
        assert (await waiting[1]).json()["host"] == f"latest-{HOST}"


async def test_who_waits_for_a_service_that_is_deleted_is_told_at_once() -> None:
    async with gateway() as (behind, client):
        waiting = asyncio.create_task(client.post("/"))
        await behind.waiting(1)
        behind.routes.replace({}, {})
        assert (await waiting).status_code == 404


async def test_a_refused_connection_is_tried_again_and_the_body_is_sent_once() -> None:
    with listening_socket("127.0.0.1", 0) as unused:
        gone = unused.getsockname()[1]
    async with serving(ECHO) as port, gateway() as (behind, client):
        dead = behind.becomes_ready(gone)  # its process has ended, which nobody noticed yet
        waiting = asyncio.create_task(client.post("/", content=b"once"))
        await behind.waiting(1)

        await behind.replicas.remove(dead, 0)
        behind.becomes_ready(port)

        assert (await waiting).json()["body"] == "once"


async def test_a_process_that_is_not_ready_in_time_is_503_with_retry_after() -> None:
    async with gateway(wait_seconds=0.1) as (_, client):
        answer = await client.post("/", content=b"x")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "one is not ready"


async def test_more_requests_than_allowed_are_503() -> None:
    async with serving(ECHO) as port, gateway(max_in_flight=1) as (behind, client):
        first = asyncio.create_task(client.get("/"))
        await behind.waiting(1)
        refused = await client.get("/")
        behind.becomes_ready(port)
        assert (await first).status_code == 200

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_an_unknown_host_is_404_and_names_the_known_ones() -> None:
    async with gateway() as (_, client):
        answer = await client.get("/", headers={"host": "other.default.localhost:1234"})

    assert answer.status_code == 404
    assert answer.json()["error"].endswith("'other.default.localhost'; known are one.default.localhost")


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("127.9.9.9", 200), ("[::1]:80", 200), ("page.example:1", 403)]
)
async def test_a_port_of_a_services_own_takes_loopback_names_alone(host: str, status: int) -> None:
    async with serving(ECHO) as port, gateway() as (behind, client):
        behind.becomes_ready(port)
        answer = await client.get(f"http://127.0.0.1:{behind.service_port}/", headers={"host": host})

    assert answer.status_code == status


async def hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def test_no_answer_in_time_is_504() -> None:
    async def never(request: Request) -> Response:
        await hung_up(request)
        return Response()

    async with serving(Path("/", never)) as port, gateway(timeout_seconds=0.2) as (behind, client):
        behind.becomes_ready(port)
        answer = await client.get("/")

    assert answer.status_code == 504


async def test_a_process_that_ends_in_the_middle_is_502() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with raw_server(die) as port, gateway() as (behind, client):
        behind.becomes_ready(port)
        answer = await client.post("/", content=b"x")

    assert answer.status_code == 502


async def test_an_answer_that_breaks_off_is_cut_off_too() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()

    async with raw_server(die) as port, gateway() as (behind, client):
        behind.becomes_ready(port)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


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

    async with serving(Path("/", collect, methods=["POST"])) as port, gateway() as (behind, client):
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

    async with serving(Path("/", slowly)) as port, gateway() as (behind, client):
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

    async with serving(Path("/", slow)) as port, gateway() as (behind, client):
        behind.becomes_ready(port)
        asking = asyncio.create_task(client.get("/"))
        await asyncio.wait_for(started.wait(), 20)

        asking.cancel()

        await asyncio.wait_for(cancelled.wait(), 20)
    assert asking.cancelled()


async def test_a_full_process_gets_no_more_and_nobody_is_refused() -> None:
    most, now, release = 0, 0, asyncio.Event()

    async def slow(request: Request) -> Response:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return Response()

    async with serving(Path("/", slow)) as port, gateway(limit=3) as (behind, client):
        behind.becomes_ready(port)
        asking = [asyncio.create_task(client.get("/")) for _ in range(20)]
        await behind.waiting(20)
        await until(lambda: now == 3)
        release.set()
        answers = await asyncio.gather(*asking)

    assert [answer.status_code for answer in answers] == [200] * 20
    assert most == 3


async def test_a_process_that_leaves_finishes_what_it_has_and_gets_no_more() -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> Response:
        await release.wait()
        return Response(b"old")

    async def quick(request: Request) -> Response:
        return Response(b"new")

    async with serving(Path("/", slow)) as old, serving(Path("/", quick)) as new, gateway() as (behind, client):
        leaving = behind.becomes_ready(old)
        asked = asyncio.create_task(client.get("/"))
        await until(lambda: leaving.in_flight == 1)
        drained = asyncio.create_task(behind.replicas.remove(leaving, 20))
        behind.becomes_ready(new)
        assert (await client.get("/")).content == b"new"
        assert not drained.done()

        release.set()

        assert (await asked).content == b"old"
        assert await drained


@pytest.mark.parametrize("length", [True, False])
async def test_a_large_body_comes_through_both_ways(length: bool) -> None:
    async def back(request: Request) -> Response:
        body = await request.body()
        return Response(body) if length else StreamingResponse(iter([body[:1000], body[1000:]]))

    sent = bytes(range(256)) * 40_000  # 10 MB
    async with serving(Path("/", back, methods=["POST"])) as port, gateway() as (behind, client):
        asking = asyncio.create_task(client.post("/", content=sent))
        await behind.waiting(1)
        behind.becomes_ready(port)
        answer = await asking

    assert answer.content == sent


async def test_requests_that_come_all_at_once_on_one_connection_are_answered_in_order() -> None:
    async with serving(ECHO) as port, gateway() as (behind, _):
        behind.becomes_ready(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.gateway_port)
        request = b"GET /%d HTTP/1.1\r\nhost: " + HOST.encode() + b"\r\n%b\r\n"
        writer.write(
            b"".join(request % (number, b"connection: close\r\n" if number == 4 else b"") for number in range(5))
        )
        answered = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()

    assert answered.count(b"HTTP/1.1 200 OK") == 5
    places = [answered.index(b'"path":"/%d"' % number) for number in range(5)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("request_bytes", "wanted"),
    [
        (b"GET / HTTP/1.0\r\nhost: one.default.localhost\r\n\r\n", b"HTTP/1.1 200"),
        (b"HEAD / HTTP/1.1\r\nhost: one.default.localhost\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200"),
        (b"GET http://one.default.localhost/x HTTP/1.0\r\n\r\n", b'"path":"/x"'),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/1.1 400"),
        (
            b"POST / HTTP/1.1\r\nhost: one.default.localhost\r\ncontent-length: 4\r\n"
            b"connection: close, content-length\r\n\r\nbody",
            b'"body":"body"',
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\nx",
            b"HTTP/1.1 501",
        ),
    ],
    ids=["1.0", "head", "proxy", "nonsense", "long", "smuggled", "length named by connection", "upgrade"],
)
async def test_other_ways_to_ask(request_bytes: bytes, wanted: bytes) -> None:
    async with serving(ECHO) as port, gateway() as (behind, _):
        behind.becomes_ready(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.gateway_port)
        writer.write(request_bytes)
        answered = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()

    assert wanted in answered, answered


async def test_the_body_of_a_request_that_came_early_may_follow_later() -> None:
    release = asyncio.Event()

    async def once_released(request: Request) -> Response:
        await release.wait()
        return Response()

    routes = (Path("/slow", once_released), ECHO)
    async with serving(*routes) as port, gateway() as (behind, _):
        behind.becomes_ready(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.gateway_port)
        named = b"host: " + HOST.encode() + b"\r\n"
        second = b"POST / HTTP/1.1\r\n" + named + b"content-length: 4\r\nconnection: close\r\n\r\n"
        writer.write(b"GET /slow HTTP/1.1\r\n" + named + b"\r\n" + second)
        await behind.waiting(1)
        release.set()
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.write(b"body")
        answered = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()

    assert b'"body":"body"' in answered


async def test_a_body_is_asked_for_with_100_continue() -> None:
    async with serving(ECHO) as port, gateway() as (behind, _):
        behind.becomes_ready(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.gateway_port)
        head = b"POST / HTTP/1.1\r\nhost: %b\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        writer.write(head % HOST.encode())
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        answered = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()

    assert b'"body":"body"' in answered
