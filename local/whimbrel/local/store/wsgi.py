"""WSGI in small steps: run an application on a body that is already read, and S3's errors in XML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from werkzeug.test import run_wsgi_app
from werkzeug.wsgi import get_input_stream

_CHUNK_BYTES = 1024 * 1024
_DISCARDED_BYTES = 64 * _CHUNK_BYTES

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


@dataclass(frozen=True)
class Answer:
    status: str
    headers: list[tuple[str, str]]
    body: list[bytes]

    @property
    def succeeded(self) -> bool:
        return self.status.startswith(("2", "303"))  # 303: a form upload that redirects


def run(app: Any, environ: Environ, body: bytes) -> Answer:
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))
    environ.setdefault("wsgi.errors", BytesIO())
    chunks, status, headers = run_wsgi_app(app, environ, buffered=True)
    return Answer(status, headers.to_wsgi_list(), list(chunks))


def take_body(environ: Environ, limit: int) -> bytes:
    """The request's body, chunked or not. Raises werkzeug's RequestEntityTooLarge."""
    if int(environ.get("CONTENT_LENGTH") or 0) > limit:
        _discard(environ)
    body: bytes = get_input_stream(environ, max_content_length=limit).read()
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ.pop("wsgi.input_terminated", None)
    return body


def _discard(environ: Environ) -> None:
    """Read some of what is too large: a client that is still sending does not see an answer."""
    stream = get_input_stream(environ)
    for _ in range(_DISCARDED_BYTES // _CHUNK_BYTES):
        if not stream.read(_CHUNK_BYTES):
            return


def s3_error(status: str, code: str, message: str, *, close: bool = False) -> Answer:
    """`close`: the rest of the request was not read, so the connection cannot go on."""
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    headers = [("content-type", "application/xml")] + ([("connection", "close")] if close else [])
    return Answer(status, headers, [b"<?xml version='1.0' encoding='UTF-8'?>\n", error.encode()])


def not_implemented(reason: str) -> Answer:
    return s3_error("501 Not Implemented", "NotImplemented", reason)
