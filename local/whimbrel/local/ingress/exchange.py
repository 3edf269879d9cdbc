"""One request over HTTP/1.1 and its answer: waits for a process, is passed on as it comes, and so is the answer.

A request is sent again only when its connection was refused, before a byte of it was sent. 503 with Retry-After:
nothing was ready in time, or too many requests wait. 502: the process ended in the middle of this request. 504: no
answer within the service's timeout. Statuses and bodies of the process pass through as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
from typing import Protocol

from whimbrel.core.tensors import KNATIVE_TAG_HEADER
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.outbound import Broken, Outbound
from whimbrel.local.ingress.replicas import Dismissed
from whimbrel.local.ingress.routes import Failure

logger = logging.getLogger(__name__)

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"}
    | {b"te", b"trailer", b"upgrade", b"expect", b"transfer-encoding"}
)
# Without them a body has no end and a request no place, whatever a Connection header names.
_NEEDED = frozenset({b"content-length", b"host", b"transfer-encoding"})
_TAG = KNATIVE_TAG_HEADER.encode()
HIGH_WATER = 256 * 1024


class Client(Protocol):
    """The connection that a request came by."""

    gate: Gate
    service: str | None

    def write(self, data: bytes) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cut(self) -> None: ...

    def finished(self, exchange: Exchange, *, keep: bool) -> None: ...


class Exchange:
    """One request and its answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.method = b""
        self.version = "1.1"
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self._outbound: Outbound | None = None
        self._held: list[bytes] = []  # of the body, before there is a process
        self._held_bytes = 0
        self._body_complete = False
        self._chunked_request = False
        self._chunked_answer = False
        self._answer_begun = False
        self._answer: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def client_left(self) -> None:
        """A client that hangs up takes its request back."""
        if self._task is not None:
            self._task.cancel()

    @property
    def waits_for_body(self) -> bool:
        return not self._body_complete

    # The request, as it comes in.

    def request_part(self, part: bytes) -> None:
        if self._outbound is not None:
            self._outbound.write(self._framed(part))
            return
        self._held.append(part)
        self._held_bytes += len(part)
        if self._held_bytes > HIGH_WATER:
            self._client.pause()

    def request_complete(self) -> None:
        self._body_complete = True
        if self._outbound is not None and self._chunked_request:
            self._outbound.write(b"0\r\n\r\n")

    def pause_request(self) -> None:
        self._client.pause()

    def resume_request(self) -> None:
        self._client.resume()

    # The answer, as it comes back.

    def answer_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        named = _named_by_connection(headers)
        kept = [(name, value) for name, value in headers if name not in _HOP_BY_HOP and name not in named]
        has_length = any(name == b"content-length" for name, _ in kept)
        bodiless = self.method == b"HEAD" or status in (204, 304)
        self._chunked_answer = not has_length and not bodiless and self.version == "1.1"
        if not has_length and not bodiless and not self._chunked_answer:
            self.keep_alive = False  # HTTP/1.0: the end of the connection is the end of the body
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason or _reason(status))]
        lines += [b"%b: %b\r\n" % pair for pair in kept]
        if self._chunked_answer:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._answer_begun = True
        self._answer.extend(lines)

    def answer_part(self, part: bytes) -> None:
        self._answer.append(b"%x\r\n%b\r\n" % (len(part), part) if self._chunked_answer else part)

    def answer_flush(self) -> None:
        if self._answer:
            self._client.write(b"".join(self._answer))
            self._answer.clear()

    def pause_answer(self) -> None:
        if self._outbound is not None:
            self._outbound.pause()

    def resume_answer(self) -> None:
        if self._outbound is not None:
            self._outbound.resume()

    async def _run(self) -> None:
        gate = self._client.gate
        try:
            with gate.counted():
                await self._exchange(gate)
        except Failure as failure:
            self._fail(failure)
        except (Broken, OSError) as error:
            logger.warning("a process ended in the middle of a request: %s", error)
            self._fail(Failure(502, f"the process ended in the middle of the request: {error}"))

    async def _exchange(self, gate: Gate) -> None:
        while True:
            with contextlib.suppress(Dismissed):
                return await self._exchange_by_route(gate)

    async def _exchange_by_route(self, gate: Gate) -> None:
        """As the routes are now. Raises Dismissed, before anything was sent, where they change while it waits."""
        route = gate.route(self._client.service, self._host(), self._header(_TAG))
        replicas = route.choose()
        clock = asyncio.get_running_loop().time
        replicas.arrive(clock())
        try:
            async with asyncio.timeout(route.timeout_seconds) as limit:
                replica, outbound = await gate.reach(
                    route, replicas, lambda address: gate.pool.connect(address.http_port)
                )
                try:
                    self._send(outbound)
                    await outbound.head
                    limit.reschedule(None)
                    await outbound.done
                    self._finish(outbound)
                finally:
                    self._outbound = None
                    gate.pool.keep(replica.address.http_port, outbound)
                    replicas.give_back(replica)
        except TimeoutError:
            raise Failure(504, f"{route.name}: no answer within {route.timeout_seconds:g} s") from None
        finally:
            replicas.leave(clock())

    def _send(self, outbound: Outbound) -> None:
        """The head and what has come of the body; the rest follows as it comes."""
        outbound.begin(self, no_body=self.method == b"HEAD")
        named = _named_by_connection(self.headers)
        expects = any(name == b"expect" for name, _ in self.headers)
        kept = [(name, value) for name, value in self.headers if name not in _HOP_BY_HOP and name not in named]
        if _is_absolute(self.target):  # its host takes the place of the header's
            kept = [(name, value) for name, value in kept if name != b"host"]
            kept.append((b"host", self._host().encode("latin-1")))
        self._chunked_request = any(name == b"transfer-encoding" for name, _ in self.headers)
        if self._chunked_request:
            kept = [(name, value) for name, value in kept if name != b"content-length"]
            kept.append((b"transfer-encoding", b"chunked"))
        lines = [b"%b %b HTTP/1.1\r\n" % (self.method, _path(self.target))]
        lines += [b"%b: %b\r\n" % pair for pair in kept]
        lines.append(b"\r\n")
        self._outbound = outbound
        if self._held_bytes > HIGH_WATER:
            self._client.resume()  # before the write, which may pause it again
        outbound.write(b"".join(lines + [self._framed(part) for part in self._held]))
        if self._body_complete and self._chunked_request:
            outbound.write(b"0\r\n\r\n")
        self._held.clear()
        if expects and not self._body_complete:
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _framed(self, part: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(part), part) if self._chunked_request else part

    def _finish(self, outbound: Outbound) -> None:
        if self._chunked_answer:
            self._answer.append(b"0\r\n\r\n")
        self.answer_flush()
        if not self._body_complete:
            outbound.reusable = False  # it answered before it had read everything
        self._client.finished(self, keep=self.keep_alive and self._body_complete)

    def _fail(self, failure: Failure) -> None:
        if self._answer_begun:
            self._client.cut()
            return
        keep = self.keep_alive and self._body_complete
        self._client.write(own_answer(failure, keep=keep, head_only=self.method == b"HEAD"))
        self._client.finished(self, keep=keep)

    def _host(self) -> str:
        if _is_absolute(self.target):
            return self.target[len(b"http://") :].partition(b"/")[0].decode("latin-1")
        return self._header(b"host")

    def _header(self, wanted: bytes) -> str:
        return next((value.decode("latin-1") for name, value in self.headers if name == wanted), "")


def _is_absolute(target: bytes) -> bool:
    """As a client asks a proxy."""
    return target.startswith(b"http://")


def _path(target: bytes) -> bytes:
    if _is_absolute(target):
        return b"/" + target[len(b"http://") :].partition(b"/")[2]
    return target


def _named_by_connection(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The headers that a Connection header names belong to that connection alone."""
    named = [value for name, value in headers if name == b"connection"]
    if not named:
        return frozenset()
    return frozenset(part.strip().lower() for value in named for part in value.split(b",")) - _NEEDED


def own_answer(failure: Failure, *, keep: bool, head_only: bool) -> bytes:
    """A whole answer of the gateway's own."""
    body = failure.body()
    lines = [b"HTTP/1.1 %d %b" % (failure.status, _reason(failure.status)), b"content-type: application/json"]
    lines.append(b"content-length: %d" % len(body))
    if failure.retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % failure.retry_after_seconds)
    if not keep:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b"", b"" if head_only else body])


def _reason(status: int) -> bytes:
    with contextlib.suppress(ValueError):
        return http.HTTPStatus(status).phrase.encode()
    return b""
