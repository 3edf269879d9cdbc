"""Scripted receivers of CloudEvents: real HTTP servers in threads that record what they get."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from whimbrel.core.cloudevent import Event, binary, parse


@dataclass(frozen=True)
class Answer:
    """`after`: answered only when that is set."""

    status: int = 202
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: threading.Event | None = None


def reply(event: Event) -> Answer:
    headers, body = binary(event)
    return Answer(200, headers, body)


Script = Callable[[Event, int], Answer]  # the event and the number of this request, from 1


class Subscriber:
    """Answers by `script`, which a test may replace at any time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.events: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        subscriber = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer

            def do_POST(self) -> None:
                subscriber.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        (event,) = parse(headers, request.rfile.read(int(headers.get("content-length", 0))))
        with self._lock:
            self.events.append(event)
            self.headers.append(headers)
            number = len(self.events)
        answer = self.script(event, number)
        if answer.after is not None:
            answer.after.wait(30)
        try:
            request.send_response(answer.status)
            for name, value in answer.headers.items():
                request.send_header(name, value)
            if answer.status != 204:
                request.send_header("content-length", str(len(answer.body)))
            request.end_headers()
            request.wfile.write(answer.body)
        except ConnectionError:
            pass  # the broker gave up waiting

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextmanager
def subscriber(script: Script = lambda event, number: Answer()) -> Iterator[Subscriber]:
    started = Subscriber(script)
    try:
        yield started
    finally:
        started.stop()
