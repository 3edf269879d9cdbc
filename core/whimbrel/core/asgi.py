"""Runs an ASGI application until SIGTERM or SIGINT; what was accepted is answered before it returns."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import ServerSettings
from whimbrel.core.sockets import listening_socket

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close first


async def serve(app: ASGIApp, settings: ServerSettings, *, grace_seconds: float) -> None:
    """Listen on `http_host:http_port`, serve, and at a signal finish what was accepted, for `grace_seconds` at most.

    A second SIGINT ends it at once. Raises SettingsError when the address cannot be listened on.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(grace_seconds),
    )
    with _listen(settings.http_host, settings.http_port) as listener:
        logger.info("listening", extra={"http_port": listener.getsockname()[1]})
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn raises the signal that ended it once more, so that the exit status says killed; ours is 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"expected to listen on {host}:{port} (--http-host, --http-port): {error.strerror}; choose another port"
        ) from None
