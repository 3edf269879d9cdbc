"""What a V1 request may hold: images as a raw body, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from whimbrel.core.errors import InputRefused, UnsupportedImage

MAX_INSTANCES = 256


def images_of_v1(payload: Any, headers: Mapping[str, str]) -> list[bytes]:
    """The encoded images of a request: `{"instances": [{"b64": "..."}, ...]}`, or one as an `image/*` body.

    `payload` is the body as bytes, or as parsed JSON. Raises InputRefused that names the instance.
    """
    media_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if isinstance(payload, bytes) and media_type.startswith("image/"):
        return [payload]
    document = _json(payload, media_type) if isinstance(payload, bytes) else payload
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise InputRefused(f'expected {{"instances": [...]}} with 1 to {MAX_INSTANCES} images, or an image/* body')
    return [_image(number, instance) for number, instance in enumerate(instances)]


def _json(body: bytes, media_type: str) -> Any:
    if media_type not in ("", "application/json"):
        raise UnsupportedImage(f"expected content-type application/json or image/*, seen {media_type!r:.80}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InputRefused('expected JSON: {"instances": [{"b64": "..."}]}') from None


def _image(number: int, instance: Any) -> bytes:
    encoded = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(encoded, str) or len(instance) != 1:
        raise InputRefused(f'instances[{number}]: expected {{"b64": "..."}}')
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InputRefused(f"instances[{number}].b64: expected base64") from None
