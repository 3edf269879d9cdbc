"""An HTTP server on loopback that answers each request as a test says, and keeps what it was sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """`hang_up` closes the connection: before the answer, or in the middle of the body when `half` is set.

    `dies` closes the port as well. `waits` holds the answer back until that event is set.
    """

    status: int = 200
    body: bytes = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    half: bool = False
    dies: bool = False
    waits: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answering:
    url: str = ""
    received: list[Received] = field(default_factory=list)


@contextmanager
def answering(answer: Callable[[int], Answer] = lambda _: Answer()) -> Iterator[Answering]:
    """`answer` is given the index of the request, from 0 and each once."""
    state, counting = Answering(), threading.Lock()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment an answer: else a delayed acknowledgement adds 40 ms to each

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with counting:
                index = len(state.received)
                headers = {name.lower(): value for name, value in self.headers.items()}
                state.received.append(Received(self.command, self.path, headers, body))
            self._write(answer(index))

        do_GET = do_POST

        def _write(self, given: Answer) -> None:
            if given.waits is not None:
                given.waits.wait(30)
            if given.dies:
                server.shutdown()
                server.server_close()
            self.close_connection = given.hang_up or given.dies
            if self.close_connection and not given.half:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(given.status)
            for name, value in ({"content-length": str(len(given.body))} | dict(given.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.body[: len(given.body) // 2] if given.half else given.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _Server(("127.0.0.1", 0), Answers) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}/predict"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""
