"""A reverse proxy on loopback that splits requests between several servers at random, as a canary's route does."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Split:
    """`weights` of the `targets` (HOST:PORT) may be changed while it runs; `sent` counts the requests of each."""

    targets: Sequence[str]
    weights: Sequence[float]
    address: str = ""
    sent: Counter[str] = field(default_factory=Counter)


@contextmanager
def splitting(targets: Sequence[str], weights: Sequence[float], seed: int = 1) -> Iterator[Split]:
    split, chance = Split(targets, weights), random.Random(seed)  # noqa: S311  not for a secret

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            (target,) = chance.choices(split.targets, split.weights)
            split.sent[target] += 1
            connection = http.client.HTTPConnection(target, timeout=30)
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                self._answer(connection.getresponse())
            finally:
                connection.close()

        do_GET = do_POST

        def _answer(self, answer: http.client.HTTPResponse) -> None:
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    with Server(("127.0.0.1", 0), Proxy) as server:
        split.address = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield split
        finally:
            server.shutdown()
