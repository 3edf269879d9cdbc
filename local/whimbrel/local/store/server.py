"""Serves the store's WSGI application: bounded connections, one thread each, no access log, an orderly end."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.wsgi import ClosingIterator

from whimbrel.core.errors import SettingsError
from whimbrel.core.sockets import listening_socket

logger = logging.getLogger(__name__)

_IDLE_SECONDS = 65  # a connection on which nothing comes

WsgiApplication = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Handler(MotoRequestHandler):  # type: ignore[misc]
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """No line per request."""

    def log(self, type: str, message: str, *arguments: Any) -> None:
        logger.log(logging.ERROR if type == "error" else logging.DEBUG, message, *arguments)

    def log_error(self, format: str, *arguments: Any) -> None:
        logger.debug(format, *arguments)  # an idle connection that was closed


class Server(ThreadedWSGIServer):  # type: ignore[misc]
    """Call `serve_forever` in one thread and `stop` in another."""

    def __init__(self, host: str, port: int, app: WsgiApplication, *, max_connections: int) -> None:
        self._slots = threading.Semaphore(max_connections)
        self._stopping = threading.Event()
        self._active = 0
        self._changed = threading.Condition()
        self._app = app
        with _listen(host, port) as listener:
            super().__init__(host, listener.getsockname()[1], self._counted, handler=_Handler, fd=listener.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a free slot here: what comes meanwhile waits in the listen queue."""
        while not self._slots.acquire(timeout=0.2):
            if self._stopping.is_set():
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def stop(self, grace_seconds: float) -> None:
        """Listen no more, and wait until what was asked is answered."""
        self._stopping.set()
        self.shutdown()
        deadline = monotonic() + grace_seconds
        with self._changed:
            while self._active and (left := deadline - monotonic()) > 0:
                self._changed.wait(left)
        self.server_close()

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._count(1)
        try:
            chunks = self._app(environ, start_response)
        except BaseException:
            self._count(-1)
            raise
        answered: Iterable[bytes] = ClosingIterator(chunks, lambda: self._count(-1))
        return answered

    def _count(self, by: int) -> None:
        with self._changed:
            self._active += by
            self._changed.notify_all()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"expected to listen on {host}:{port} (--http-host, --http-port): {error.strerror}; choose another port"
        ) from None
