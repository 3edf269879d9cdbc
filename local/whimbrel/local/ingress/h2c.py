"""HTTP/2 without TLS, as gRPC speaks it: each stream is routed, waits and is counted by itself, and keeps its trailers.

A failure of the gateway's own is UNAVAILABLE to a gRPC client, with the reason, and a status to any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import h2.errors
import h2.exceptions

from whimbrel.core.tensors import KNATIVE_TAG_HEADER
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.http2 import Connection, Headers
from whimbrel.local.ingress.outbound import Broken
from whimbrel.local.ingress.replicas import Dismissed
from whimbrel.local.ingress.routes import Failure
from whimbrel.local.processes import Address

_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_UNAVAILABLE, _DEADLINE_EXCEEDED = b"14", b"4"


class Inbound:
    """A client's connection: its streams, and a connection of its own to each process that they went to."""

    def __init__(self, gate: Gate, service: str | None, open_connections: set[Any]) -> None:
        self.gate, self.service = gate, service
        self._outbound: dict[int, Connection] = {}
        self._connected: set[Connection] = set()
        self._open, self._in_work, self._ending = open_connections, 0, False
        self._open.add(self)
        self.connection = Connection(lambda number: _Exchange(self, number), self._lost)

    async def outbound(self, address: Address) -> Connection:
        """Raises OSError where nothing listens, Failure where nothing speaks HTTP/2."""
        port = address.grpc_port
        if port is None:
            raise Failure(502, "the process does not speak HTTP/2: expected a port with the name h2c")
        found = self._outbound.get(port)
        if found is None or found.closed:
            loop = asyncio.get_running_loop()
            _, found = await loop.create_connection(self._to_process, "127.0.0.1", port)
            self._outbound[port] = found
        return found

    def _to_process(self) -> Connection:
        """Kept until it ends: after another one has its place, requests may still be answered by it."""
        made = Connection(None, lambda: self._connected.discard(made))
        self._connected.add(made)
        return made

    def begun(self) -> None:
        self._in_work += 1

    def ended(self) -> None:
        self._in_work -= 1
        if self._ending and self._in_work == 0:
            self.connection.close()

    def end_when_idle(self) -> None:
        self._ending = True
        if self._in_work == 0:
            self.connection.close()

    def cut(self) -> None:
        self.connection.close()

    def _lost(self) -> None:
        self._open.discard(self)
        for outbound in list(self._connected):
            outbound.close()


class _Exchange:
    """One stream of a client. It holds what comes until there is a process."""

    def __init__(self, client: Inbound, number: int) -> None:
        self._client, self._number = client, number
        self._headers: Headers = ()
        self._held: list[tuple[bytes, int]] = []
        self._request_ended = False
        self._answer_begun = False
        self._answering: _Answering | None = None
        self._task: asyncio.Task[None] | None = None

    def on_headers(self, headers: Headers, *, end: bool) -> None:
        if self._task is not None:  # trailers of a request; nobody sends them
            self._end_request()
            return
        self._headers, self._request_ended = headers, end
        self._task = asyncio.create_task(self._run())

    def on_data(self, data: bytes, received: int, *, end: bool) -> None:
        if self._answering is not None:
            self._answering.pass_on(data, partial(self._acknowledge, received))
        else:
            self._held.append((data, received))
        if end:
            self._end_request()

    def on_reset(self, code: int) -> None:
        """The client takes its request back."""
        if self._task is not None:
            self._task.cancel()

    def _end_request(self) -> None:
        self._request_ended = True
        if self._answering is not None:
            self._answering.end_request()

    def _acknowledge(self, received: int) -> None:
        self._client.connection.acknowledge(self._number, received)

    async def _run(self) -> None:
        gate = self._client.gate
        self._client.begun()
        try:
            with gate.counted():
                await self._exchange(gate)
        except Failure as failure:
            self._fail(failure)
        except (Broken, OSError, h2.exceptions.ProtocolError) as error:
            self._fail(Failure(502, f"the process ended in the middle of the request: {error}"))
        finally:
            for _, received in self._held:  # nobody passes them on any more
                self._acknowledge(received)
            self._held.clear()
            self._client.connection.forget(self._number)
            self._client.ended()

    async def _exchange(self, gate: Gate) -> None:
        while True:
            with contextlib.suppress(Dismissed):
                return await self._exchange_by_route(gate)

    async def _exchange_by_route(self, gate: Gate) -> None:
        """As the routes are now. Raises Dismissed, before anything was sent, where they change while it waits."""
        host, tag = (_header(self._headers, name) for name in (b":authority", KNATIVE_TAG_HEADER.encode()))
        route = gate.route(self._client.service, host, tag)
        replicas = route.choose()
        clock = asyncio.get_running_loop().time
        replicas.arrive(clock())
        try:
            async with asyncio.timeout(route.timeout_seconds) as limit:
                replica, outbound = await gate.reach(route, replicas, self._client.outbound)
                try:
                    await self._answered(outbound, limit)
                finally:
                    replicas.give_back(replica)
        except TimeoutError:
            raise Failure(504, f"{route.name}: no answer within {route.timeout_seconds:g} s") from None
        finally:
            replicas.leave(clock())

    async def _answered(self, outbound: Connection, limit: asyncio.Timeout) -> None:
        answering = self._answering = _Answering(self._client.connection, self._number, outbound)
        try:
            answering.begin(self._headers, end=self._request_ended and not self._held)
            for data, received in self._held:
                answering.pass_on(data, partial(self._acknowledge, received))
            if self._held and self._request_ended:
                answering.end_request()
            self._held.clear()
            await answering.begun
            limit.reschedule(None)
            await answering.done
        finally:
            self._answering = None
            self._answer_begun = answering.has_begun
            answering.give_up()

    def _fail(self, failure: Failure) -> None:
        connection = self._client.connection
        if self._answer_begun:
            connection.reset(self._number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif _header(self._headers, b"content-type").startswith("application/grpc"):
            code = _DEADLINE_EXCEEDED if failure.status == 504 else _UNAVAILABLE
            said = quote(str(failure), safe=" !#$&'()*+,/:;=?@[]~").encode()
            headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
            connection.answer(self._number, [*headers, (b"grpc-status", code), (b"grpc-message", said)], end=True)
        else:
            headers = [(b":status", b"%d" % failure.status), (b"content-type", b"application/json")]
            connection.answer(self._number, headers, end=False)
            connection.send(self._number, failure.body(), lambda: None)
            connection.end(self._number)


class _Answering:
    """The stream to a process, and its answer on the way back to the client's stream."""

    def __init__(self, client: Connection, number: int, outbound: Connection) -> None:
        loop = asyncio.get_running_loop()
        self._client, self._client_number = client, number
        self._outbound, self._number = outbound, 0
        self.has_begun = False
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def begin(self, headers: Headers, *, end: bool) -> None:
        self._number = self._outbound.open(self, _passed_on(headers), end=end)

    def pass_on(self, data: bytes, gone: Callable[[], None]) -> None:
        self._outbound.send(self._number, data, gone)

    def end_request(self) -> None:
        self._outbound.end(self._number)

    def give_up(self) -> None:
        """Where it is not done, nobody waits for it any more."""
        if self.done.done() and not self.done.cancelled():
            self._outbound.forget(self._number)
        elif self._number:
            self._outbound.reset(self._number, h2.errors.ErrorCodes.CANCEL)

    def on_headers(self, headers: Headers, *, end: bool) -> None:
        if self.has_begun:
            self._client.end(self._client_number, _passed_on(headers))
            self._finish()
            return
        self.has_begun = True
        if not self.begun.done():
            self.begun.set_result(None)
        self._client.answer(self._client_number, _passed_on(headers), end=end)
        if end:
            self._finish()

    def on_data(self, data: bytes, received: int, *, end: bool) -> None:
        acknowledge = partial(self._outbound.acknowledge, self._number, received)
        self._client.send(self._client_number, data, acknowledge)
        if end:
            self._client.end(self._client_number)
            self._finish()

    def on_reset(self, code: int) -> None:
        for future in (self.begun, self.done):
            if not future.done():
                future.set_exception(Broken(f"it ended the stream with code {code}"))
                future.exception()  # whoever waits for the other one is told too

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _passed_on(headers: Headers) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers if bytes(name) not in _HOP_BY_HOP]


def _header(headers: Headers, wanted: bytes) -> str:
    return next((bytes(value).decode("latin-1") for name, value in headers if bytes(name) == wanted), "")
