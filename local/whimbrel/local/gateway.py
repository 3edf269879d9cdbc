"""The HTTP reverse proxy in front of every process: waits while one is starting, streams, and retries nothing else.

A request is sent again only when its connection was refused, before a byte of it was sent. 503 with Retry-After:
nothing was ready in time, or too many requests wait. 502: the process ended in the middle of this request. 504: no
answer within the service's timeout. Statuses and bodies of the process pass through as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpcore
from starlette.types import Receive, Scope, Send

from whimbrel.local import loopback
from whimbrel.local.processes import Address

logger = logging.getLogger(__name__)

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"}
    | {b"te", b"trailer", b"upgrade", b"expect"}
)
_CONNECT_SECONDS = 5.0
_REFUSED_PAUSE_SECONDS = 0.05
# Servers close an idle connection after 5 s or later; ours are given up before, so that no request meets the close.
_IDLE_SECONDS = 2.0

Message = MutableMapping[str, Any]


class Backend(Protocol):
    """The process behind a service."""

    async def address(self, seconds: float) -> Address | None:
        """Where it listens, once it is ready; None when it is not within `seconds`."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    backend: Backend
    timeout_seconds: float


class Failure(Exception):
    """The gateway's own answer."""

    def __init__(self, status: int, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class ClientLeft(Exception):
    """The client hung up; nobody reads an answer."""


class Gateway:
    """An ASGI application that routes by host name; `to` gives one that is in front of one service."""

    def __init__(self, *, wait_seconds: float, max_in_flight: int) -> None:
        self._wait_seconds = wait_seconds
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._by_host: dict[str, Service] = {}
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=max_in_flight, max_keepalive_connections=64, keepalive_expiry=_IDLE_SECONDS
        )

    def route(self, hosts: Mapping[str, Service]) -> None:
        """Replace what the host names lead to."""
        self._by_host = dict(hosts)

    async def close(self) -> None:
        await self._pool.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = _host(scope).rpartition(":")
        name = (host[0] or host[2]).lower()
        service = self._by_host.get(name)
        if service is None:
            known = ", ".join(sorted(self._by_host)) or "none yet"
            await _answer(send, Failure(404, f"no service has the host name {name!r}; known are {known}"))
        else:
            await self.forward(service, scope, receive, send)

    async def forward_loopback(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        """`forward` for a port of the service's own: the Host is no route, but has to be a loopback name."""
        reason = loopback.refusal(_host(scope))
        if reason:
            await _answer(send, Failure(403, reason))
        else:
            await self.forward(service, scope, receive, send)

    async def forward(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request from the process behind `service`."""
        if self._in_flight >= self._max_in_flight:
            await _answer(send, Failure(503, f"{self._max_in_flight} requests wait already", retry_after_seconds=1))
            return
        self._in_flight += 1
        body = _RequestBody(receive)
        exchange = asyncio.create_task(self._exchange(service, scope, body, send))
        departure = asyncio.create_task(body.client_left())
        try:
            # A client that hangs up takes its request back.
            done, _ = await asyncio.wait({exchange, departure}, return_when=asyncio.FIRST_COMPLETED)
            if exchange in done:
                exchange.result()
        finally:
            self._in_flight -= 1
            for task in (exchange, departure):
                task.cancel()
            await asyncio.gather(exchange, departure, return_exceptions=True)

    async def _exchange(self, service: Service, scope: Scope, body: _RequestBody, send: Send) -> None:
        started = False
        try:
            async with asyncio.timeout(service.timeout_seconds) as limit:
                response = await self._connected(service, scope, body)
                limit.reschedule(None)
            try:
                await send(_response_start(response))
                started = True
                async for part in response.aiter_stream():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                await response.aclose()
        except Failure as failure:
            await _answer(send, failure)
        except TimeoutError:
            await _answer(send, Failure(504, f"{service.name}: no answer within {service.timeout_seconds:g} s"))
        except ClientLeft:
            return
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            logger.warning("%s ended in the middle of a request: %s", service.name, error or type(error).__name__)
            if not started:  # else the connection is cut, which is all that can be said
                await _answer(send, Failure(502, f"{service.name} ended in the middle of the request"))

    async def _connected(self, service: Service, scope: Scope, body: _RequestBody) -> httpcore.Response:
        """The head of the answer, the connection tried again while it is refused."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(self._wait_seconds, service.timeout_seconds)
        while (left := deadline - loop.time()) > 0:
            address = await service.backend.address(left)
            if address is None:
                break
            try:
                return await self._pool.handle_async_request(_request(scope, body, address.http_port))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
        raise Failure(503, f"{service.name} is not ready", retry_after_seconds=1)


class _RequestBody:
    """The body as it comes in, and word of a client that hangs up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            if part := message.get("body", b""):
                yield part
            more = message.get("more_body", False)
        self._complete.set()

    async def client_left(self) -> None:
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            continue


def _host(scope: Scope) -> str:
    found: bytes = dict(scope["headers"]).get(b"host", b"")
    return found.decode("latin-1")


def _request(scope: Scope, body: _RequestBody, port: int) -> httpcore.Request:
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    return httpcore.Request(
        scope["method"],
        httpcore.URL(scheme=b"http", host=b"127.0.0.1", port=port, target=target),
        headers=[(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP],
        content=body,
        extensions={"timeout": {"connect": _CONNECT_SECONDS}},
    )


def _response_start(response: httpcore.Response) -> Message:
    dropped = _HOP_BY_HOP | {b"transfer-encoding"}  # the server before us frames the body itself
    headers = [(name.lower(), value) for name, value in response.headers if name.lower() not in dropped]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


async def _answer(send: Send, failure: Failure) -> None:
    headers = [(b"content-type", b"application/json")]
    if failure.retry_after_seconds is not None:
        headers.append((b"retry-after", str(failure.retry_after_seconds).encode()))
    body = json.dumps({"error": str(failure), "reason": "Gateway"}).encode()
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
