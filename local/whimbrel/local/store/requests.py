"""What a request to the store is about, read from its WSGI environment; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from whimbrel.local import loopback
from whimbrel.local.store.journal import StoredRequest

DEFAULT_REGION = "us-east-1"

_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request")
_QUEUE_TARGET = "AmazonSQS."
_FORM = "application/x-www-form-urlencoded"
# Query parameters of a bucket request that do not say which part of the bucket it is about.
_PLAIN_PARAMETERS = re.compile(r"(?i)x-amz-|x-id$|awsaccesskeyid$|signature$|expires$")
# Headers that a replayed request needs; what signs it, or belongs to its connection, is left out.
_KEPT_HEADERS = re.compile(r"content-type$|content-encoding$|x-amz-(?!date$|security-token$|user-agent$)")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which service in which region the request is signed for; S3 where it is not signed."""

    service: str
    region: str


@dataclass(frozen=True, slots=True)
class S3Request:
    """`part` is the bucket's subresource (`policy`, `inventory&id=x`), empty for the bucket itself."""

    method: str
    bucket: str
    key: str
    parameters: frozenset[str]
    part: str


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """A call that makes, changes or deletes a queue; `attributes` are the names of those it sets."""

    action: str
    name: str
    attributes: tuple[str, ...]


def foreign(environ: Mapping[str, Any]) -> str | None:
    """Why a request may be a web page's and not a program's of this machine, in one line; None when it is not."""
    if "HTTP_ORIGIN" in environ:
        return "this store is not for web pages: expected no Origin header"
    return loopback.refusal(environ.get("HTTP_HOST", ""))


def scope(environ: Mapping[str, Any]) -> Scope:
    signed = environ.get("HTTP_AUTHORIZATION", "") or _presigned(environ)
    found = _SCOPE.search(signed)
    if found:
        return Scope(found["service"], found["region"])
    is_queue = environ.get("HTTP_X_AMZ_TARGET", "").startswith(_QUEUE_TARGET)
    return Scope("sqs" if is_queue else "s3", DEFAULT_REGION)


def s3_request(environ: Mapping[str, Any]) -> S3Request:
    path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace").removeprefix("/")
    bucket, _, key = path.partition("/")
    query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    about = [(name, value) for name, value in query if not _PLAIN_PARAMETERS.match(name)]
    part = "&".join(f"{name}={value}" if value else name for name, value in sorted(about))
    return S3Request(environ["REQUEST_METHOD"], bucket, key, frozenset(name for name, _ in query), part)


def refusal(request: S3Request, environ: Mapping[str, Any]) -> str | None:
    """Why the store does not do this, in one line; None when it does."""
    if environ.get("HTTP_X_AMZ_BUCKET_OBJECT_LOCK_ENABLED", "").lower() == "true":
        return "object lock is not kept by this store: it needs versions; use a real store"
    if request.method == "PUT" and not request.key:
        if "versioning" in request.parameters:
            return "versioning is not kept by this store: version ids would change at each start; use a real store"
        if "object-lock" in request.parameters:
            return "object lock is not kept by this store: it needs versions; use a real store"
    return None


def queue_request(environ: Mapping[str, Any], body: bytes) -> QueueRequest | None:
    """In SQS's JSON protocol or its older query protocol; None for what is not about a queue's definition."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target.startswith(_QUEUE_TARGET):
        return _json_queue_request(target.removeprefix(_QUEUE_TARGET), body)
    if environ.get("CONTENT_TYPE", "").startswith(_FORM):
        fields = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
        names = [value for name, value in fields.items() if re.fullmatch(r"Attribute\.\d+\.Name", name)]
        return _queue_request(fields.get("Action", ""), fields, names)
    return None


def receives_messages(environ: Mapping[str, Any], body: bytes) -> bool:
    """Whether this is SQS's ReceiveMessage, in either protocol."""
    if "HTTP_X_AMZ_TARGET" in environ:
        return str(environ["HTTP_X_AMZ_TARGET"]) == f"{_QUEUE_TARGET}ReceiveMessage"
    return parse_qs(body.decode(errors="replace")).get("Action") == ["ReceiveMessage"]


def stored_request(environ: Mapping[str, Any], asked: Scope, body: bytes) -> StoredRequest:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if isinstance(value, str) and (name.startswith("HTTP_") or name in ("CONTENT_TYPE",))
    }
    return StoredRequest(
        service=asked.service,
        region=asked.region,
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", "/"),
        query=environ.get("QUERY_STRING", ""),
        headers={name: value for name, value in headers.items() if _KEPT_HEADERS.match(name)},
        body=body,
    )


def replay_environment(request: StoredRequest) -> dict[str, Any]:
    """The WSGI environment of a stored request, without its body."""
    environ = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "HTTP_AUTHORIZATION": (
            f"AWS4-HMAC-SHA256 Credential=journal/20200101/{request.region}/{request.service}/aws4_request, "
            "SignedHeaders=host, Signature=0"
        ),
    }
    for name, value in request.headers.items():
        variable = name.upper().replace("-", "_")
        environ[variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"] = value
    return environ


def _presigned(environ: Mapping[str, Any]) -> str:
    query = parse_qs(environ.get("QUERY_STRING", ""))
    return f"Credential={query['X-Amz-Credential'][0]}" if "X-Amz-Credential" in query else ""


def _json_queue_request(action: str, body: bytes) -> QueueRequest | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    attributes = document.get("Attributes") if isinstance(document, dict) else None
    return _queue_request(action, document, attributes if isinstance(attributes, dict) else {})


def _queue_request(action: str, fields: Any, attributes: Any) -> QueueRequest | None:
    if action not in ("CreateQueue", "DeleteQueue", "SetQueueAttributes") or not isinstance(fields, dict):
        return None
    name = fields.get("QueueName") or str(fields.get("QueueUrl", "")).rstrip("/").rpartition("/")[2]
    return QueueRequest(action, str(name), tuple(sorted(attributes)))
