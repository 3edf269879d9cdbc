"""A registry on loopback that speaks what a pull begins with: manifests behind tokens, by the OCI distribution spec."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "puller", "correct horse"
_TOKEN, _PUBLIC_TOKEN = "token-of-the-puller", "token-of-anybody"


@dataclass
class ImageRegistry:
    """`held`: tags by repository; `private`: repositories that only the puller reads. `asked`: method and path."""

    held: Mapping[str, frozenset[str]]
    private: frozenset[str] = frozenset()
    challenge: Literal["bearer", "basic", "none"] = "bearer"
    realm: str = "{url}/token"
    token_padding: int = 0
    garbled: bool = False
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def authenticate(self) -> dict[str, str]:
        realm = self.realm.format(url=self.url)
        bearer = f'Bearer realm="{realm}",service="{self.host}",scope="repository:x:pull"'
        return {"www-authenticate": bearer if self.challenge == "bearer" else 'Basic realm="registry"'}

    def manifest(self, repository: str, reference: str, authorization: str) -> tuple[int, dict[str, str]]:
        basic = authorization == _basic()
        puller = basic if self.challenge == "basic" else authorization == f"Bearer {_TOKEN}"
        anybody = self.challenge == "none" or authorization == f"Bearer {_PUBLIC_TOKEN}"
        if not (puller or anybody) or (repository in self.private and not puller):
            return 401, self.authenticate()
        return (200 if reference in self.held.get(repository, ()) else 404), {}

    def token(self, query: Mapping[str, list[str]], authorization: str) -> tuple[int, bytes]:
        assert query["service"] == [self.host]
        assert query["scope"][0].startswith("repository:")
        assert query["scope"][0].endswith(":pull")
        if authorization and authorization != _basic():
            return 401, b""
        if self.garbled:
            return 200, b"<html>"
        token = _TOKEN if authorization else _PUBLIC_TOKEN
        return 200, json.dumps({"token": token, "padding": "x" * self.token_padding}).encode()


def docker_config(host: str, password: str = PASSWORD) -> str:
    """What a Secret of the type kubernetes.io/dockerconfigjson holds, before base64."""
    return json.dumps({"auths": {f"https://{host}/v2/": {"auth": b64encode(f"{USER}:{password}".encode()).decode()}}})


def _basic() -> str:
    return "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@contextmanager
def image_registry(registry: ImageRegistry) -> Iterator[ImageRegistry]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            registry.asked.append(("HEAD", self.path))
            repository, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
            status, headers = registry.manifest(repository, reference, self.headers.get("authorization", ""))
            if "application/vnd.oci.image.index.v1+json" not in self.headers["accept"]:
                status = 404  # as registries do that hold an index
            self._answer(status, headers, b"")

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            registry.asked.append(("GET", parts.path))
            status, body = registry.token(parse_qs(parts.query), self.headers.get("authorization", ""))
            self._answer(status, {}, body)

        def log_message(self, format: str, *arguments: object) -> None:
            """No line per request."""

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
