"""Reads the body of a request within a limit, as JSON or YAML; writes answers with their warnings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import Response

from whimbrel.local.api import protobuf
from whimbrel.local.api.faults import BadRequest, TooLarge, UnsupportedMediaType
from whimbrel.local.api.resources import Answer

_WARNING_CHARACTERS = 4096  # of all warnings of one answer, as in Kubernetes
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def media_type(request: Request) -> str:
    """JSON where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip() or "application/json"


async def read(request: Request, max_bytes: int) -> Any:
    """What the body says, None where it is empty. Raises TooLarge, UnsupportedMediaType, BadRequest."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise TooLarge(f"expected a body of {max_bytes} bytes at most")
        parts.append(part)
    body, media = b"".join(parts), media_type(request)
    if not body:
        return None
    if not media.endswith(("json", "yaml")) and media != protobuf.MEDIA_TYPE:
        raise UnsupportedMediaType(f"expected application/json or application/yaml, seen {media!r:.80}")
    try:
        return await asyncio.to_thread(_parsed, body, media)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadRequest(f"the body cannot be read as {media}: {error!s:.200}") from None


def written(answer: Answer) -> Response:
    """Each warning is a header, which kubectl prints."""
    response = json_response(answer.body, answer.status)
    left = _WARNING_CHARACTERS
    for warning in answer.warnings:
        text = warning.encode("ascii", "replace").decode()[:left].replace("\\", "\\\\").replace('"', '\\"')
        left -= len(text)
        if text:
            response.headers.append("warning", f'299 - "{text}"')
    return response


def json_response(found: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(found, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def _parsed(body: bytes, media: str) -> Any:
    if media == protobuf.MEDIA_TYPE:
        return protobuf.parsed(body)
    if media.endswith("json"):
        return json.loads(body)
    found = yaml.load(body, _LOADER)  # noqa: S506  the safe loader, in C where it is there
    return json.loads(json.dumps(found, default=str))  # dates are text in Kubernetes
