"""Runs one component until SIGTERM: an HTTP server with /healthz and /metrics beside its work, then the drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from whimbrel.core.errors import SettingsError, TryAgain, Unavailable
from whimbrel.core.metrics import exposition
from whimbrel.core.sockets import listening_socket
from whimbrel.eventing.patience import Presence, backoff, pause
from whimbrel.eventing.settings import WaitSettings

Work = Callable[[asyncio.Event, Callable[[], None]], Awaitable[None]]

_STARTUP_BACKOFF = (0.1, 5.0)  # seconds: base, most

_log = logging.getLogger(__name__)


def run(settings: WaitSettings, routes: Sequence[BaseRoute], work: Work) -> None:
    """Serve `routes` and do `work(stopping, ready)` until SIGTERM or SIGINT; then finish what was accepted.

    /healthz answers 503 until the work calls `ready`. Raises SettingsError when the port is taken, and what the work
    raises.
    """
    asyncio.run(_run(settings, routes, work))


async def until_present(
    look: Callable[[], Awaitable[Any]], service: str, seconds: float, stopping: asyncio.Event
) -> bool:
    """Wait for a service at the start, at most so long. False when the stop came first; raises Unavailable."""
    presence = Presence(service)
    deadline = asyncio.get_running_loop().time() + seconds
    while not stopping.is_set():
        try:
            await look()
        except TryAgain as error:
            if asyncio.get_running_loop().time() >= deadline:
                raise Unavailable(f"waited {seconds:g} s for {service}; {error}") from error
            presence.missed(error)
            await pause(backoff(presence.missed_in_a_row, *_STARTUP_BACKOFF), stopping)
        else:
            presence.answered()
            return True
    return False


async def _run(settings: WaitSettings, routes: Sequence[BaseRoute], work: Work) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    health = _Health()
    own = [Route("/healthz", health.answer), Route("/metrics", _metrics)]
    with _listening(settings) as listener:
        server = _server(Starlette(routes=[*routes, *own]), settings)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        _log.info("listening on %s:%d", *listener.getsockname()[:2])
        try:
            await work(stopping, health.set_ready)
            await stopping.wait()
        finally:
            health.ready = False
            server.should_exit = True
            await serving


class _Health:
    def __init__(self) -> None:
        self.ready = False

    def set_ready(self) -> None:
        self.ready = True

    async def answer(self, request: Request) -> Response:
        return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)


async def _metrics(request: Request) -> Response:
    body, content_type = exposition()
    return Response(body, media_type=content_type)


class _Server(uvicorn.Server):
    """A server that leaves the signals to its process: uvicorn would end it by the signal, not with status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(application: Starlette, settings: WaitSettings) -> uvicorn.Server:
    config = uvicorn.Config(
        application,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,  # longer than the clients', so that it is not the server who closes under a request
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        server_header=False,
        ssl_certfile=settings.http_tls_certificate,
        ssl_keyfile=settings.http_tls_key,
    )
    try:
        config.load()
    except OSError as error:  # an SSLError is one
        raise SettingsError(
            f"setting WHIMBREL_HTTP_TLS_CERTIFICATE, WHIMBREL_HTTP_TLS_KEY: expected a certificate and its key as PEM "
            f"files, seen {settings.http_tls_certificate} and {settings.http_tls_key} ({error})"
        ) from None
    return _Server(config)


@contextlib.contextmanager
def _listening(settings: WaitSettings) -> Iterator[socket.socket]:
    host, port = settings.http_host, settings.http_port
    try:
        listener = listening_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"setting WHIMBREL_HTTP_HOST, WHIMBREL_HTTP_PORT: cannot listen on {host}:{port} ({error.strerror})"
        ) from None
    with listener:
        yield listener
