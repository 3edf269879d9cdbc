"""An HTTP server in threads that takes CloudEvents and answers by a script."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from whimbrel.core.cloudevent import Event, parse


@dataclass(frozen=True)
class Reply:
    """`hold`: the answer waits for it (or for the sink's end)."""

    status: int = 202
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


Script = Callable[[Event, int], Reply]


def always_accept(event: Event, attempt: int) -> Reply:
    return Reply()


class ScriptedSink:
    """`script(event, attempt)` decides each answer; the first attempt for an event id is 1."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.received: list[Event] = []
        self.accepted: list[Event] = []
        self.most_at_once_of_a_key = 0
        self._of_key: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _request_class(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def accepted_keys(self) -> list[str]:
        with self._lock:
            return [event.subject or "" for event in self.accepted]

    def answer(self, headers: Mapping[str, str], body: bytes) -> Reply:
        (event,) = parse(headers, body)
        with self._lock:
            self.received.append(event)
            self._attempts[event.id] += 1
            self._of_key[event.subject or ""] += 1
            self.most_at_once_of_a_key = max(self.most_at_once_of_a_key, *self._of_key.values())
            attempt = self._attempts[event.id]
        reply = self.script(event, attempt)
        if reply.hold is not None:
            while not reply.hold.wait(0.02) and not self._closing.is_set():
                pass
        with self._lock:
            self._of_key[event.subject or ""] -= 1
            if 200 <= reply.status < 300:
                self.accepted.append(event)
        return reply

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextmanager
def scripted_sink(script: Script = always_accept, port: int = 0) -> Iterator[ScriptedSink]:
    sink = ScriptedSink(script, port)
    try:
        yield sink
    finally:
        sink.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed hangs up: nothing to say about it."""


def _request_class(sink: ScriptedSink) -> type[BaseHTTPRequestHandler]:
    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            reply = sink.answer(dict(self.headers.items()), body)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Request
