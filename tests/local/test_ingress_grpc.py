"""gRPC through the gateway, by real clients and servers: routed by authority, with trailers, split stream by stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import httpx
import pytest

from whimbrel.core.sockets import listening_socket
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.listener import Listener
from whimbrel.local.ingress.replicas import Replicas
from whimbrel.local.ingress.routes import Route, Routes, Share
from whimbrel.local.processes import Address

pytestmark = pytest.mark.anyio

HOST = "one.default.localhost"
LARGE = 4 * 1024 * 1024
_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.default_authority", HOST)]


class Servicer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`/test/Echo` answers what it gets and a trailer, `/test/Fail` a status, `/test/Chat` each message as it comes,
    `/test/Hang` never."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.hanging, self.cancelled = asyncio.Event(), asyncio.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        known = {
            "/test/Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "/test/Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "/test/Hang": grpc.unary_unary_rpc_method_handler(self._hang),
            "/test/Chat": grpc.stream_stream_rpc_method_handler(self._chat),
        }
        return known.get(call.method)

    async def _echo(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata((("served-by", self._name),))
        return request

    async def _fail(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: é")
        return b""

    async def _hang(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return b""

    async def _chat(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield request.upper()
        finally:
            self.cancelled.set()


@asynccontextmanager
async def served(servicer: Servicer) -> AsyncIterator[Address]:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((servicer,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Address(1, port)
    finally:
        await server.stop(0)


@asynccontextmanager
async def channel(*shares: Share, wait_seconds: float = 20, within: float = 30) -> AsyncIterator[grpc.aio.Channel]:
    route, routes = Route("one", shares, within), Routes()
    routes.replace({HOST: route}, {"one": route})
    gate = Gate(routes, wait_seconds, 1000)
    opened = listening_socket("127.0.0.1", 0)
    listener = Listener(gate, opened)
    await listener.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{opened.getsockname()[1]}", options=_OPTIONS) as client:
            yield client
    finally:
        await listener.stop()
    assert gate.in_flight == 0


async def test_an_answer_comes_with_its_trailers() -> None:
    replicas = Replicas("one-00001")
    async with served(Servicer("a")) as address, channel(Share(100, replicas)) as client:
        replicas.add("a", address)
        call = client.unary_unary("/test/Echo")(b"hello")

        assert await call == b"hello"
        assert dict(await call.trailing_metadata())["served-by"] == "a"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await client.unary_unary("/test/Fail")(b"x")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await client.unary_unary("/test/Unknown")(b"x")

    assert (failed.value.code(), failed.value.details()) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "not like this: é",
    )
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert replicas.busy == 0


async def test_a_large_message_comes_through_both_ways_and_many_at_once() -> None:
    replicas = Replicas("one-00001", limit=3)
    async with served(Servicer("a")) as address, channel(Share(100, replicas)) as client:
        replicas.add("a", address)
        messages = [bytes([number]) * (LARGE // 8) for number in range(8)] + [bytes(LARGE)]
        echoed = await asyncio.gather(*(client.unary_unary("/test/Echo")(each) for each in messages))

    assert echoed == messages


async def test_messages_of_a_stream_are_passed_on_as_they_come() -> None:
    replicas = Replicas("one-00001")
    async with served(Servicer("a")) as address, channel(Share(100, replicas)) as client:
        replicas.add("a", address)
        call = client.stream_stream("/test/Chat")()
        for word in (b"one", b"two", b"three"):
            await call.write(word)
            assert await call.read() == word.upper()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_a_call_waits_while_the_process_starts() -> None:
    replicas = Replicas("one-00001")
    waits = asyncio.Event()
    replicas.wanted = waits.set
    async with served(Servicer("a")) as address, channel(Share(100, replicas)) as client:
        call = client.unary_unary("/test/Echo")(b"early")
        waiting = asyncio.ensure_future(call)
        await asyncio.wait_for(waits.wait(), 20)
        replicas.add("a", address)

        assert await waiting == b"early"


async def test_calls_on_one_connection_are_split_one_by_one() -> None:
    first, second = Replicas("one-00001"), Replicas("one-00002")
    servers = served(Servicer("first")), served(Servicer("second"))
    async with servers[0] as one, servers[1] as two, channel(Share(50, first), Share(50, second)) as client:
        first.add("first", one)
        second.add("second", two)
        seen = set()
        for _ in range(60):
            call = client.unary_unary("/test/Echo")(b"x")
            await call
            seen.add(dict(await call.trailing_metadata())["served-by"])

    assert seen == {"first", "second"}


async def test_what_the_gateway_refuses_is_unavailable_with_the_reason() -> None:
    async with channel(Share(100, Replicas("one-00001")), wait_seconds=0.1) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.unary_unary("/test/Echo")(b"x")

    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "one is not ready")


async def test_a_call_that_is_cancelled_is_cancelled_at_the_process_too() -> None:
    replicas, servicer = Replicas("one-00001"), Servicer("a")
    async with served(servicer) as address, channel(Share(100, replicas)) as client:
        replicas.add("a", address)
        call = client.unary_unary("/test/Hang")(b"x")
        waiting = asyncio.ensure_future(call)
        await asyncio.wait_for(servicer.hanging.wait(), 20)

        call.cancel()

        await asyncio.wait_for(servicer.cancelled.wait(), 20)
        assert waiting.cancelled() or await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(20):
            while replicas.busy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_call_that_is_cancelled_in_its_answer_is_cancelled_at_the_process_too() -> None:
    replicas, servicer = Replicas("one-00001"), Servicer("a")
    async with served(servicer) as address, channel(Share(100, replicas)) as client:
        replicas.add("a", address)
        call = client.stream_stream("/test/Chat")()
        await call.write(b"one")
        assert await call.read() == b"ONE"

        call.cancel()

        await asyncio.wait_for(servicer.cancelled.wait(), 20)


async def test_no_answer_in_time_is_deadline_exceeded() -> None:
    replicas, servicer = Replicas("one-00001"), Servicer("a")
    async with served(servicer) as address, channel(Share(100, replicas), within=0.3) as client:
        replicas.add("a", address)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await client.unary_unary("/test/Hang")(b"x")

    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_process_that_speaks_no_http2_says_so() -> None:
    replicas = Replicas("one-00001")
    replicas.add("a", Address(1, None))
    async with channel(Share(100, replicas)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.unary_unary("/test/Echo")(b"x")

    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "a port with the name h2c" in str(refused.value.details())


async def test_a_frame_that_may_not_be_ends_the_connection_alone() -> None:
    route, routes = Route("one", (Share(100, Replicas("one")),), 30), Routes()
    routes.replace({HOST: route}, {})
    opened = listening_socket("127.0.0.1", 0)
    listener = Listener(Gate(routes, 1, 10), opened)
    await listener.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", opened.getsockname()[1])
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01" + bytes(6) + b"x")  # data of no stream
    await asyncio.wait_for(reader.read(), 20)
    writer.close()
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        assert (await client.get(url, headers={"host": "x.localhost"})).status_code == 404
    await listener.stop()
