"""As much of a Kubernetes API server on loopback as a client needs to read one resource, and a kubeconfig for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}


@contextmanager
def cluster_api(documents: Mapping[str, Any]) -> Iterator[str]:
    """Serves `documents` by the path of their URL; what is not there gets the 404 that Kubernetes writes."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/version": VERSION, **documents}.get(self.path.rstrip("/"))
            missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": self.path}
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def write_kubeconfig(path: Path, server: str, context: str = "test") -> str:
    """A kubeconfig with one context for `server`; its path as text."""
    named = {"cluster": {"server": server}, "context": {"cluster": context, "user": context}, "user": {}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": named["cluster"]}],
        "contexts": [{"name": context, "context": named["context"]}],
        "users": [{"name": context, "user": named["user"]}],
    }
    path.write_text(json.dumps(document))
    return str(path)
