"""A small HTTP process for the engine to run: `python -m testbed.toy_server PORT [--option ...]`.

Answers GET /healthz with 200, GET /environment with its environment, and any POST with its body. --refuse LINE ends
with status 2 and the line; --deaf ignores SIGTERM; --child starts a process of its own that would outlive it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Toy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(json.dumps(dict(os.environ)).encode() if self.path == "/environment" else b"ok")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def log_message(self, format: str, *arguments: object) -> None:
        """No line per request."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--refuse")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    if options.refuse:
        sys.stderr.write(f"{options.refuse}\n")
        return 2
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: os._exit(0))
    if options.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sys.stderr.write(f"child {child.pid}\n")
        sys.stderr.flush()
    ThreadingHTTPServer(("127.0.0.1", options.port), _Toy).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
