"""A store that gives a package's model.json at once, and its weights so slowly that they never end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIZE = 2**30  # what it says the weights are
DRIP = bytes(256 * 1024)
SECONDS_BETWEEN = 0.05  # minutes for all


@dataclass
class DrippingStore:
    url: str
    dripping: threading.Event = field(default_factory=threading.Event)


@contextmanager
def dripping_store(manifest: bytes) -> Iterator[DrippingStore]:
    ended = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            weights = not self.path.endswith("/model.json")
            self.send_response(200)
            self.send_header("content-length", str(SIZE if weights else len(manifest)))
            self.end_headers()
            try:
                if weights:
                    self._drip()
                else:
                    self.wfile.write(manifest)
            except OSError:
                self.close_connection = True  # the client has left

        def _drip(self) -> None:
            while not ended.wait(SECONDS_BETWEEN):
                self.wfile.write(DRIP)
                store.dripping.set()
            self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            """No line per request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        store = DrippingStore(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield store
        finally:
            ended.set()
            server.shutdown()
            serving.join()
