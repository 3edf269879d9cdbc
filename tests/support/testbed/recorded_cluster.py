"""An API server that holds given objects, answers GET alone, and remembers every request: a cluster to be looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]


@dataclass
class RecordedCluster:
    """`groups` are the kinds by group version; `denied` are plurals that the user may not read."""

    objects: Sequence[Object]
    groups: Mapping[str, Sequence[str]]
    denied: frozenset[str] = frozenset()
    version: str = "v1.33.0"
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, Object]:
        parts = path.strip("/").split("/")
        if parts == ["version"]:
            return 200, {"gitVersion": self.version}
        version, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        if not rest:
            kinds = [{"name": f"{kind.lower()}s", "kind": kind} for kind in self.groups.get(version, ())]
            return (200, {"kind": "APIResourceList", "resources": kinds}) if kinds else _status(404, path)
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if rest[0] in self.denied:
            return _status(403, f'User "viewer" cannot list resource "{rest[0]}"')
        found = [each for each in self.objects if _is(each, version, rest[0], namespace)]
        if len(rest) > 1:
            named = [each for each in found if each["metadata"]["name"] == rest[1]]
            return (200, named[0]) if named else _status(404, path)
        if not self._serves(version, rest[0]):
            return _status(404, path)
        return 200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": found}

    def _serves(self, version: str, plural: str) -> bool:
        """What Kubernetes itself has, and of the others what is installed."""
        builtin = "." not in version.partition("/")[0] or ".k8s.io/" in version
        return builtin or any(f"{kind.lower()}s" == plural for kind in self.groups.get(version, ()))


def _is(found: Object, version: str, plural: str, namespace: str | None) -> bool:
    same_kind = found["apiVersion"] == version and f"{found['kind'].lower()}s" == plural
    return same_kind and namespace in (None, found["metadata"].get("namespace"))


def _status(code: int, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message}


@contextmanager
def recorded_cluster(cluster: RecordedCluster) -> Iterator[RecordedCluster]:
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment an answer: else a delayed acknowledgement adds 40 ms to each

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            cluster.asked.append((self.command, parts.path))
            status, document = cluster.answer(parts.path, parse_qs(parts.query))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self) -> None:
            cluster.asked.append((self.command, self.path))
            self.send_error(405)

        do_POST = do_PUT = do_PATCH = do_DELETE = _refuse

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield cluster
        finally:
            server.shutdown()
