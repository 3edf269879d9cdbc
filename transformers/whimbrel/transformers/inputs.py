"""What a request may hold: a raw image, V1 JSON of base64, URLs and object references, or V2 BYTES tensors; no I/O."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.core.errors import InputRefused, UnsupportedImage, WhimbrelError
from whimbrel.core.kserve_sdk import InferInput, InferRequest
from whimbrel.core.references import ObjectRef

MAX_IMAGES = 256
_BYTES = "BYTES"


@dataclass(frozen=True, slots=True)
class Url:
    """Where an image is to be fetched from."""

    url: str


ImageSource = bytes | Url | ObjectRef  # encoded, or where it lies


@dataclass(frozen=True, slots=True)
class AskedImage:
    """One image of a request. `where` names it in errors; it is empty where the request is the image."""

    where: str
    source: ImageSource

    def located(self, error: WhimbrelError) -> WhimbrelError:
        """A copy of `error` that says which image of the request it is about."""
        if not self.where:
            return error
        named = type(error).__new__(type(error))
        named.__dict__.update(error.__dict__)
        named.args = (f"{self.where}: {error}",)
        return named


def images_of_v1(payload: Any, headers: Mapping[str, str]) -> list[AskedImage]:
    """`{"instances": [{"b64": "..."} or {"url": "..."} or {"s3": "s3://BUCKET/KEY"}, ...]}`, or an `image/*` body.

    `payload` is the body as bytes, or as parsed JSON. Raises InputRefused that names the instance.
    """
    media_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if isinstance(payload, bytes) and media_type.startswith("image/"):
        return [AskedImage("", payload)]
    document = _json(payload, media_type) if isinstance(payload, bytes) else payload
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_IMAGES:
        raise InputRefused(f'expected {{"instances": [...]}} with 1 to {MAX_IMAGES} images, or an image/* body')
    return [_instance(f"instances[{number}]", instance) for number, instance in enumerate(instances)]


def images_of_v2(request: InferRequest) -> list[AskedImage]:
    """One BYTES tensor, each element an encoded image: as it is in binary tensors and gRPC, in base64 in JSON.

    Raises InputRefused that names the element.
    """
    if len(request.inputs) != 1 or request.inputs[0].datatype != _BYTES:
        seen = ", ".join(f"{entry.name[:40]!r} of {entry.datatype[:20]}" for entry in request.inputs[:5]) or "none"
        raise InputRefused(f"expected one input of datatype {_BYTES}, each element an encoded image; seen {seen}")
    entry = request.inputs[0]
    images = [
        _element(f"{entry.name}[{number}]", element) for number, element in enumerate(_elements(entry.name, entry))
    ]
    if not 1 <= len(images) <= MAX_IMAGES:
        raise InputRefused(f"{entry.name}: expected 1 to {MAX_IMAGES} images a request, seen {len(images)}")
    return images


def _json(body: bytes, media_type: str) -> Any:
    if media_type not in ("", "application/json"):
        raise UnsupportedImage(f"expected content-type application/json or image/*, seen {media_type!r:.80}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InputRefused('expected JSON: {"instances": [{"b64": "..."}]}') from None


def _instance(where: str, instance: Any) -> AskedImage:
    if isinstance(instance, dict) and len(instance) == 1:
        ((kind, text),) = instance.items()
        if kind in _SOURCES and isinstance(text, str):
            return AskedImage(where, _SOURCES[kind](f"{where}.{kind}", text))
    raise InputRefused(f'{where}: expected {{"b64": "..."}}, {{"url": "http..."}} or {{"s3": "s3://BUCKET/KEY"}}')


def _base64(where: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputRefused(f"{where}: expected base64") from None


def _url(where: str, text: str) -> Url:
    if not text.lower().startswith(("http://", "https://")):
        raise InputRefused(f"{where}: expected a URL that starts with http:// or https://, seen {text!r:.120}")
    return Url(text)


def _object(where: str, text: str) -> ObjectRef:
    try:
        return ObjectRef.from_uri(text)
    except (InputRefused, ValueError) as error:
        raise InputRefused(f"{where}: {error}") from None


_SOURCES: Mapping[str, Callable[[str, str], ImageSource]] = {"b64": _base64, "url": _url, "s3": _object}


def _elements(where: str, entry: InferInput) -> Iterable[Any]:
    """Strings from JSON, bytes from all else; the shape may be [N], or [N, 1] as Triton's clients write it."""
    if isinstance(entry.data, np.ndarray):
        return entry.data.flat
    if entry.data:  # gRPC's typed contents
        return list(entry.data)
    try:
        elements: Iterable[Any] = entry.as_numpy().flat
    except (ValueError, struct.error):
        raise InputRefused(
            f"{where}: expected {_BYTES} elements of shape {list(entry.shape)}, each with its length before it"
        ) from None
    return elements


def _element(where: str, element: Any) -> AskedImage:
    return AskedImage(where, _base64(where, element) if isinstance(element, str) else bytes(element))
