"""What a client asked for, read from V1 and V2 alike and checked: images, and what is wanted of them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from whimbrel.core.errors import InputRefused, PresetMismatch
from whimbrel.core.kserve_sdk import InferInput, InferRequest, to_http_parameters
from whimbrel.core.tensors import (
    IMAGES,
    MODEL_VERSION,
    PRESET_DIGEST,
    REQUEST_ID_HEADER,
    SCORE_THRESHOLD,
    TIMEOUT,
    TIMEOUT_HEADER,
    TOP_K,
    VERSION_HEADER,
)
from whimbrel.core.v2_rest import array_of_json
from whimbrel.predictors.network import Description, Images
from whimbrel.predictors.tasks.task import Task, Wanted

_DATATYPE = "UINT8"


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """`top_k` and `score_threshold` are what a request gets that does not say; without `top_k`, it is the task's."""

    max_images: int
    top_k: int | None = None
    score_threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """`timeout_seconds`: how long the client waits, from the arrival of its request; None for as long as it takes."""

    images: Images
    wanted: Wanted
    timeout_seconds: float | None = None


def read_v2(request: InferRequest, task: Task, limits: RequestLimits) -> Asked:
    """Raises InputRefused for what will never work, and PresetMismatch for another version's request."""
    parameters = to_http_parameters(request.parameters or {})
    _check_preset_digest(parameters.get(PRESET_DIGEST), task.description)
    if [entry.name for entry in request.inputs] != [IMAGES]:
        seen = ", ".join(repr(entry.name[:40]) for entry in request.inputs[:5]) or "none"
        raise InputRefused(f"expected one input {IMAGES!r}, seen {seen}")
    return _asked(_tensor(request.inputs[0]), parameters, task, limits)


def read_v1(payload: Any, task: Task, limits: RequestLimits) -> Asked:
    """`{"instances": [image, ...]}`, an image as (H, W, 3) nested lists of 0 to 255. Raises as `read_v2` does."""
    document = _json_object(payload)
    instances, parameters = document.get("instances"), document.get("parameters") or {}
    if not isinstance(instances, list) or not isinstance(parameters, dict):
        raise InputRefused('expected {"instances": [image, ...]}, an image as nested lists (H, W, 3) of 0 to 255')
    _check_preset_digest(parameters.get(PRESET_DIGEST), task.description)
    return _asked(array_of_json(instances, _DATATYPE, _shape_of(instances), "instances"), parameters, task, limits)


def _asked(images: NDArray[Any], parameters: Mapping[str, Any], task: Task, limits: RequestLimits) -> Asked:
    if images.ndim != 4 or images.shape[3] != 3:
        raise InputRefused(f"{IMAGES}: expected the shape (N, H, W, 3), seen {images.shape}")
    if not 1 <= len(images) <= limits.max_images:
        raise InputRefused(f"{IMAGES}: expected 1 to {limits.max_images} images a request, seen {len(images)}")
    preset = task.description.preset
    if images.shape[1:3] != (preset.height, preset.width):
        raise _mismatch(
            f"images of {preset.height} x {preset.width}", f"{images.shape[1]} x {images.shape[2]}", task.description
        )
    return Asked(np.ascontiguousarray(images), _wanted(parameters, task, limits), _timeout(parameters))


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header grants. A proxy writes it, so one that is no number is not the client's fault."""
    text = headers.get(TIMEOUT_HEADER, "")
    return int(text) / 1000 if text.isascii() and text.isdecimal() and len(text) < 10 else None


def version_of(payload: Any, headers: Mapping[str, str]) -> str | None:
    """The version that the request names: V2's own field, the parameter of the transformer's requests, or the header.

    Raises InputRefused for a parameter that is no string.
    """
    if not isinstance(payload, InferRequest):
        return headers.get(VERSION_HEADER)
    named = to_http_parameters(payload.parameters or {}).get(MODEL_VERSION)
    if not isinstance(named, str | None):
        raise InputRefused(f"expected a string as parameters.{MODEL_VERSION}, seen {named!r:.80}")
    return payload.model_version or named or headers.get(VERSION_HEADER)


def key_of(payload: Any, headers: Mapping[str, str]) -> str:
    """What a redelivery of this request has again: its own id, which the transformer takes from the event.

    The header comes after it: a gateway makes a new one for each delivery. Where there is none, chance.
    """
    identifier = payload.id if isinstance(payload, InferRequest) else None
    return identifier or headers.get(REQUEST_ID_HEADER) or uuid.uuid4().hex


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get(TIMEOUT)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise InputRefused(f"parameter {TIMEOUT}: expected microseconds above 0, seen {str(value)[:40]!r}")
    return value / 1_000_000


def _wanted(parameters: Mapping[str, Any], task: Task, limits: RequestLimits) -> Wanted:
    top_k = parameters.get(TOP_K, limits.top_k or task.default_top_k)
    if type(top_k) is not int or top_k < 1:
        raise InputRefused(f"parameter {TOP_K}: expected an integer of at least 1, seen {str(top_k)[:40]!r}")
    return Wanted(top_k, _threshold(parameters.get(SCORE_THRESHOLD, limits.score_threshold)))


def _threshold(value: Any) -> float:
    """A string too: parameters of gRPC are never floats."""
    try:
        threshold = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise InputRefused(f"parameter {SCORE_THRESHOLD}: expected a number from 0 to 1, seen {str(value)[:40]!r}")
    return threshold


def _check_preset_digest(seen: Any, description: Description) -> None:
    if seen is not None and seen != description.preset.digest:
        raise _mismatch(f"the preset {description.preset.digest}", str(seen)[:80], description)


def _mismatch(expected: str, seen: str, description: Description) -> PresetMismatch:
    return PresetMismatch(
        f"expected {expected}, seen {seen}; prepare the image again by the preset of this answer",
        preset=description.preset.model_dump(mode="json"),
        model_digest=description.digest,
    )


def _tensor(entry: InferInput) -> NDArray[Any]:
    if entry.datatype != _DATATYPE:
        raise InputRefused(f"{entry.name}: expected the datatype {_DATATYPE}, seen {entry.datatype[:20]!r}")
    if isinstance(entry.data, np.ndarray):
        return entry.data
    if entry.data:  # gRPC's typed contents
        return array_of_json(entry.data, _DATATYPE, tuple(entry.shape), entry.name)
    try:
        array: NDArray[Any] = entry.as_numpy()
    except ValueError:
        raise InputRefused(f"{entry.name}: expected the bytes of shape {entry.shape}, seen another number") from None
    return array


def _json_object(payload: Any) -> dict[str, Any]:
    """The SDK hands over what it could not tell the type of as bytes."""
    if isinstance(payload, bytes):
        try:
            payload = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise InputRefused(f"expected a V1 request in JSON; {error}") from None
    if not isinstance(payload, dict):
        raise InputRefused(f"expected a V1 request as a JSON object, seen {type(payload).__name__}")
    return payload


def _shape_of(nested: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(nested, list) and len(shape) < 8:
        shape.append(len(nested))
        nested = nested[0] if nested else None
    return tuple(shape)
