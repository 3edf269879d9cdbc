"""Runs KServe models as a server of ours: REST (V1, V2) and, with a port for it, V2 gRPC.

Built from the SDK's parts, without its ModelServer, which binds 0.0.0.0, parses sys.argv and unloads the models at
SIGTERM. A life goes: listen (live, not ready: 503) → `lifespan` entered → ready → SIGTERM → not ready, but
everything that arrives within `drain_seconds` is still answered → what was accepted is finished, for at most
`grace_seconds` in all protocols together → `lifespan` left → return. A process that has not ended some seconds after
that, for a thread that hangs, ends itself with status 1.

    class Digits(kserve_sdk.Model):
        async def predict(self, payload, headers=None): ...     # dict or bytes (V1), InferRequest (V2)

    run([model], settings, routes=[Route("/events", events, methods=["POST"])], lifespan=load_and_warm_up)

Whatever raises a WhimbrelError, in the model or in an extra route, is answered by that error's row of the table
(REST: status, `body()`, `headers()`; gRPC: the fitting code, `body()` as JSON in the details). A request whose
client has gone is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn
import uvloop
from pydantic import Field
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from whimbrel.core.budget import Budget
from whimbrel.core.errors import SettingsError
from whimbrel.core.kserve_sdk import Model
from whimbrel.core.model_dataplane import Serving, dataplane_of
from whimbrel.core.model_grpc import grpc_server
from whimbrel.core.model_rest import BodyLimits, rest_application
from whimbrel.core.settings import Port, Seconds, ServerSettings
from whimbrel.core.sockets import listening_socket

_BACKLOG = 2048
_LEAVING_SECONDS = 5.0  # after drain and grace, for what `lifespan` has to let go of
_KEEP_ALIVE_SECONDS = 75  # longer than the gateways in front keep theirs, so that they close first

logger = logging.getLogger(__name__)

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


class ModelServerSettings(ServerSettings):
    """Where a model server listens, what it takes, and how it ends."""

    grpc_port: Port | None = Field(default=None, description="port for V2 gRPC; absent: none")
    max_request_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, le=1024**3, description="largest request body (413) and gRPC message"
    )
    request_budget: int = Field(
        default=128 * 1024 * 1024, ge=1024, le=2**40, description="bytes of request bodies held by all requests (REST)"
    )
    wait_seconds: Seconds = Field(default=30.0, description="longest wait for a budget before 503")
    body_seconds: Seconds = Field(default=60.0, description="longest time to read one request body before 504")
    drain_seconds: float = Field(
        default=2.0, ge=0, le=300, description="how long to go on answering after SIGTERM, while not ready"
    )
    grace_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="longest wait for accepted requests after the drain"
    )


@asynccontextmanager
async def _nothing_to_load() -> AsyncIterator[None]:
    yield


def run(
    models: Sequence[Model],
    settings: ModelServerSettings,
    *,
    routes: Sequence[BaseRoute] = (),
    lifespan: Lifespan = _nothing_to_load,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain at once.

    Each model's `ready` has to be True when `lifespan` has been entered. `routes` come before the protocol's own, under
    the same limits and error table. Raises SettingsError when a port is taken, and what `lifespan` raises.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(models, settings, routes, lifespan))


async def _serve(
    models: Sequence[Model], settings: ModelServerSettings, routes: Sequence[BaseRoute], lifespan: Lifespan
) -> None:
    serving, stopping = Serving(), _StopSignals(settings.drain_seconds + settings.grace_seconds)
    dataplane = dataplane_of(models, serving)
    limits = BodyLimits(settings.max_request_bytes, settings.body_seconds)
    bodies = Budget(settings.request_budget, "bytes of request bodies", max_wait_seconds=settings.wait_seconds)
    app = rest_application(dataplane, serving, routes, limits, bodies)
    # `loaded` is entered last and left last: what the servers have accepted still needs the model.
    async with AsyncExitStack() as loaded, AsyncExitStack() as servers:
        servers.enter_context(stopping.installed())
        http_port = await servers.enter_async_context(_http_server(app, settings, stopping))
        grpc_port = None
        if settings.grpc_port is not None:
            grpc_port = await servers.enter_async_context(
                grpc_server(
                    dataplane,
                    host=settings.http_host,
                    port=settings.grpc_port,
                    max_message_bytes=settings.max_request_bytes,
                    grace_seconds=stopping.seconds_left,
                )
            )
        logger.info("listening", extra={"http_port": http_port, "grpc_port": grpc_port})
        if not await _entered(lifespan, loaded, stopping):
            return
        serving.ready = True
        logger.info("ready", extra={"models": [model.name for model in models]})
        await stopping.first.wait()
        serving.ready, serving.draining = False, True
        logger.info("draining", extra={"seconds": settings.drain_seconds})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.second.wait(), settings.drain_seconds)


async def _entered(lifespan: Lifespan, loaded: AsyncExitStack, stopping: _StopSignals) -> bool:
    """Enter `lifespan`; False when a stop signal came first."""
    if stopping.first.is_set():
        return False
    try:
        async with asyncio.timeout(None) as loading:
            stopping.on_first = lambda: loading.reschedule(0)
            await loaded.enter_async_context(lifespan())
    except TimeoutError:
        if not loading.expired():
            raise
        return False
    finally:
        stopping.on_first = None
    return not stopping.first.is_set()


class _StopSignals:
    """The first begins the end, the second ends the drain. `seconds`: what everything after the first may take."""

    def __init__(self, seconds: float) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.on_first: Callable[[], None] | None = None
        self._seconds, self._deadline = seconds, math.inf

    def received(self) -> None:
        if self.first.is_set():
            self.second.set()
            return
        self.first.set()
        self._deadline = time.monotonic() + self._seconds
        self._end_the_process_later()
        if self.on_first is not None:
            self.on_first()

    def seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _end_the_process_later(self) -> None:
        """Threads that hang, in a download or on a device, would keep it alive for ever."""
        timer = threading.Timer(self._seconds + _LEAVING_SECONDS, _end_the_process)
        timer.daemon = True
        timer.start()

    @contextmanager
    def installed(self) -> Iterator[None]:
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.received)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def _end_the_process() -> None:
    logger.error("ending with work unfinished: drain and grace are over")
    os._exit(1)


class _HttpServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the signals are `_StopSignals`'s


@asynccontextmanager
async def _http_server(app: ASGIApp, settings: ModelServerSettings, stopping: _StopSignals) -> AsyncIterator[int]:
    """Serves while entered; leaving it closes the listener and waits for the requests in flight."""
    listener = _listen(settings.http_host, settings.http_port)
    port: int = listener.getsockname()[1]
    server = _HttpServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    task.add_done_callback(lambda _: stopping.received())
    try:
        yield port
    finally:
        server.config.timeout_graceful_shutdown = math.ceil(min(stopping.seconds_left(), settings.grace_seconds))
        server.should_exit = True
        await task


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"setting WHIMBREL_HTTP_PORT (--http-port): expected to listen on {host}:{port}, seen: {error.strerror};"
            " choose another"
        ) from None
