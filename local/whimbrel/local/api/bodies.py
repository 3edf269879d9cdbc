"""Reads the body of a request within a limit, as JSON or YAML; writes answers with their warnings."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import Response

from whimbrel.local.api import protobuf
from whimbrel.local.api.faults import BadRequest, Timeout, TooLarge, UnsupportedMediaType
from whimbrel.local.api.resources import Answer

_WARNING_CHARACTERS = 4096  # of all warnings of one answer, as in Kubernetes
_BODY_SECONDS = 30
_DEPTH, _MAX_VALUES = 100, 500_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def media_type(request: Request) -> str:
    """JSON where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip() or "application/json"


async def read(request: Request, max_bytes: int) -> Any:
    """What the body says, None where it is empty. Raises TooLarge, Timeout, UnsupportedMediaType, BadRequest."""
    body, media = await _bytes(request, max_bytes), media_type(request)
    if not body:
        return None
    if not media.endswith(("json", "yaml")) and media != protobuf.MEDIA_TYPE:
        raise UnsupportedMediaType(f"expected application/json or application/yaml, seen {media!r:.80}")
    try:
        return await asyncio.to_thread(_parsed, body, media)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadRequest(f"the body cannot be read as {media}: {error!s:.200}") from None


async def _bytes(request: Request, max_bytes: int) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise TooLarge(f"expected a body of {max_bytes} bytes at most")
                parts.append(part)
    except TimeoutError:
        raise Timeout(f"expected all of the body within {_BODY_SECONDS} s") from None
    return b"".join(parts)


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
        found = json.loads(body, object_pairs_hook=_once, parse_constant=_refuse)
    else:
        found = yaml.load(body, _LOADER)  # noqa: S506  the safe loader, in C where it is there
    return _plain(found, _DEPTH, [_MAX_VALUES])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """As JSON has it: keys are text, and so are YAML's dates. Bounded, since YAML can repeat itself without end."""
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise ValueError(f"expected {_DEPTH} levels and {_MAX_VALUES} values at most")
    if isinstance(value, dict):
        return {_key(name): _plain(each, depth - 1, left) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, depth - 1, left) for each in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _refuse(str(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _key(name: Any) -> str:
    return name if isinstance(name, str) else json.dumps(name, default=str)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r:.80} is there twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON value")
