"""The broker's HTTP side: `POST /<namespace>/<broker>` answers when the event is with everyone who wants it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import (
    InputRefused,
    NotFound,
    PayloadTooLarge,
    SettingsError,
    TryAgain,
    Unavailable,
    WhimbrelError,
)
from whimbrel.core.metrics import exposition
from whimbrel.core.tensors import REQUEST_ID_HEADER
from whimbrel.local import loopback
from whimbrel.local.broker import metrics
from whimbrel.local.broker.config import Broker, BrokerConfig, load_config
from whimbrel.local.broker.dispatch import Dispatcher, Journey
from whimbrel.local.broker.settings import BrokerSettings

logger = logging.getLogger(__name__)

_PASSED_ON = (REQUEST_ID_HEADER, "traceparent", "tracestate")
# A subscriber of ours closes an idle connection after 5 s or later; ours are given up before.
_IDLE_SECONDS = 2.0


class RequestTimeout(TryAgain):
    status = 408


class ForeignHost(WhimbrelError):
    status = 403


class _FromThisMachine:
    """Refuses a request that is addressed to another name than one of this machine's loopback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            if reason := loopback.refusal(request.headers.get("host", "")):
                answer = await _answer_error(request, ForeignHost(reason))
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Ingress:
    """What arrives: its limits, and the configuration that holds for it."""

    def __init__(self, settings: BrokerSettings, config: BrokerConfig) -> None:
        self._settings = settings
        self._config = config
        self._in_flight = 0
        self._dispatcher: Dispatcher | None = None

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/{namespace}/{broker}", self._receive, methods=["POST"]),
            ],
            middleware=[Middleware(_FromThisMachine)],
            exception_handlers={WhimbrelError: _answer_error},  # type: ignore[dict-item]
            lifespan=self._lifespan,
        )

    def reload(self) -> None:
        """Take the configuration from its file again; a wrong one is logged and the present one stays."""
        try:
            self._config = load_config(self._settings.config)
        except SettingsError as error:
            logger.error("configuration not reloaded: %s", error)
        else:
            logger.info("configuration reloaded", extra={"brokers": len(self._config.brokers)})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=_IDLE_SECONDS)
        headers = {"accept-encoding": "identity"}
        # The environment's proxies are not for the services of this machine.
        async with httpx.AsyncClient(limits=limits, timeout=None, headers=headers, trust_env=False) as client:  # noqa: S113 - every attempt has its trigger's timeout
            self._dispatcher = Dispatcher(client, self._settings.max_event_bytes)
            yield

    async def _receive(self, request: Request) -> Response:
        broker = self._broker(request)
        name = f"{broker.namespace}/{broker.name}"
        with metrics.SECONDS.labels(name).time(), self._slots(1):
            try:
                events = parse(request.headers, await self._body(request))
                self._check_batch(events)
                with self._slots(len(events) - 1):
                    await self._accept_all(broker, events, request)
            except WhimbrelError as error:
                metrics.EVENTS.labels(name, str(error.status)).inc()
                raise
        metrics.EVENTS.labels(name, "202").inc(len(events))
        return Response(status_code=202)

    async def _accept_all(self, broker: Broker, events: list[Event], request: Request) -> None:
        if self._dispatcher is None:
            raise Unavailable("the broker is starting", retry_after_seconds=1)
        # What is not ASCII no client could send on.
        passed_on = {name: request.headers[name] for name in _PASSED_ON if request.headers.get(name, "é").isascii()}
        address = str(request.url.replace(query="", fragment=""))
        ends = await asyncio.gather(
            *(self._dispatcher.accept(broker, event, Journey(address, passed_on)) for event in events),
            return_exceptions=True,
        )
        for error in ends:
            if error is not None:
                raise error

    def _broker(self, request: Request) -> Broker:
        key = request.path_params["namespace"], request.path_params["broker"]
        broker = self._config.brokers.get(key)
        if broker is None:
            raise NotFound(f"namespace {key[0]!r} has no broker {key[1]!r}")
        return broker

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.max_event_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.receive_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise PayloadTooLarge(f"expected at most {limit} bytes (max_event_bytes)")
        except ClientDisconnect:
            raise InputRefused("expected a whole request, the producer hung up") from None
        except TimeoutError:
            raise RequestTimeout(f"expected the request within {self._settings.receive_seconds:g} s") from None
        return bytes(body)

    def _check_batch(self, events: list[Event]) -> None:
        limit = self._settings.max_in_flight
        if len(events) > limit:
            raise PayloadTooLarge(f"expected a batch of at most {limit} events (max_in_flight), seen {len(events)}")

    @contextmanager
    def _slots(self, count: int) -> Iterator[None]:
        """Room for `count` more events; raises Unavailable when there is none now."""
        if self._in_flight + count > self._settings.max_in_flight:
            raise Unavailable(f"{self._in_flight} events are in flight already", retry_after_seconds=1)
        self._in_flight += count
        metrics.IN_FLIGHT.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= count
            metrics.IN_FLIGHT.set(self._in_flight)

    async def _health(self, request: Request) -> Response:
        config = self._config
        known = {"generation": config.generation, "brokers": len(config.brokers)}
        return JSONResponse({"status": "ok", **known, "in_flight": self._in_flight})

    async def _metrics(self, request: Request) -> Response:
        body, content_type = exposition()
        return Response(body, media_type=content_type)


async def _answer_error(request: Request, error: WhimbrelError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())
