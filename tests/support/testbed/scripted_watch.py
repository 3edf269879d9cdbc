"""An API server whose lists and watches follow a script: what a real one does only after hours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Script = Sequence[tuple[str, Any]]


class Scripted:
    """`script` has one entry a request: ("list", document), ("watch", text as it is sent), ("status", code).

    `asked` are the queries that came, in order. After the last entry the last one comes again.
    """

    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.asked: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def next(self, query: str) -> tuple[str, Any]:
        with self._lock:
            self.asked.append({name: values[0] for name, values in parse_qs(query).items()})
            return self.script[min(len(self.asked), len(self.script)) - 1]


@contextmanager
def scripted_watch(script: Script) -> Iterator[tuple[str, Scripted]]:
    """The URL of the server, and what it was asked."""
    scripted = Scripted(script)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.rstrip("/") == "/version":
                self._send(200, json.dumps({"gitVersion": "v1.33.0"}))
                return
            kind, what = scripted.next(parts.query)
            if kind == "status":
                self._send(what, json.dumps({"kind": "Status", "code": what, "message": f"scripted {what}"}))
            else:
                self._send(200, what if kind == "watch" else json.dumps(what))

        def _send(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", scripted
        finally:
            server.shutdown()
