"""The V2 inference protocol over REST, JSON and binary tensors, to and from the SDK's types.

The SDK's own reading turns a binary tensor into a Python list, number by number, and lets KeyError and ValueError
out for malformed bodies. Here a binary tensor is a view of the body, and whatever is malformed is InputRefused.
Format: https://github.com/kserve/open-inference-protocol, with the binary tensor extension.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from whimbrel.core.errors import InputRefused
from whimbrel.core.kserve_sdk import InferInput, InferRequest, InferResponse, RequestedOutput, to_np_dtype

JSON_LENGTH_HEADER = "inference-header-content-length"
MAX_INPUTS = 64
_JSON_BYTES_ON_THE_LOOP = 64 * 1024

Array = NDArray[Any]


async def parse_request(body: bytes, headers: Mapping[str, str], model_name: str) -> InferRequest:
    """The request in `body`; large JSON is read off the event loop. Raises InputRefused naming the field."""
    json_length = _json_length(body, headers)
    if json_length <= _JSON_BYTES_ON_THE_LOOP:
        return parse(body, json_length, model_name)
    return await asyncio.to_thread(parse, body, json_length, model_name)


def parse(body: bytes, json_length: int, model_name: str) -> InferRequest:
    """`body`: `json_length` bytes of JSON, then the binary tensors in the order of the inputs."""
    document = _json(body[:json_length] if json_length < len(body) else body)
    tensors = memoryview(body)[json_length:]
    inputs, offset = [], 0
    for position, fields in enumerate(_objects(document, "inputs")):
        entry, size = _input(f"inputs[{position}]", fields, tensors[offset:])
        inputs.append(entry)
        offset += size
    if not inputs:
        raise InputRefused("inputs: expected at least one, seen none")
    if offset != len(tensors):
        raise InputRefused(f"expected {offset} bytes of binary tensors after the JSON, seen {len(tensors)}")
    outputs = [
        RequestedOutput(_field(fields, f"outputs[{position}]", "name", str), _parameters(fields, "outputs"))
        for position, fields in enumerate(_objects(document, "outputs"))
    ]
    return InferRequest(
        model_name,
        inputs,
        request_id=_optional_text(document, "id"),
        parameters=_parameters(document, "request"),
        request_outputs=outputs or None,
    )


def render_response(answer: Any, headers: Mapping[str, str]) -> Response:
    """An InferResponse (or a dict in its form) as JSON, or as JSON and binary tensors where the request asked."""
    content, json_length = answer.to_rest() if isinstance(answer, InferResponse) else (answer, None)
    if json_length is None:
        return Response(orjson.dumps(content), headers=dict(headers), media_type="application/json")
    all_headers = {**headers, JSON_LENGTH_HEADER: str(json_length)}
    return Response(content, headers=all_headers, media_type="application/octet-stream")


def array_of_json(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """A JSON list, flat or nested, as an array of exactly this datatype and shape; nothing is rounded or wrapped."""
    dtype = _dtype(datatype, where)
    if datatype == "FP16":
        raise InputRefused(f"{where}: expected FP16 as a binary tensor, seen JSON")
    try:
        # Of mixed sizes of UINT64, numpy would make floats.
        array = np.asarray(data, dtype=np.object_ if datatype in ("BYTES", "UINT64") else None)
    except (ValueError, TypeError, OverflowError):
        raise InputRefused(f"{where}: expected a list of {datatype}, equally long on each level") from None
    if not _fits(array, dtype):
        raise InputRefused(f"{where}: expected values of {datatype}, seen others")
    if array.size != math.prod(shape):
        raise InputRefused(f"{where}: expected {math.prod(shape)} values for shape {list(shape)}, seen {array.size}")
    return array.astype(dtype, copy=False).reshape(shape)


def _json_length(body: bytes, headers: Mapping[str, str]) -> int:
    text = headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return len(body)
    if not (text.isascii() and text.isdecimal()) or int(text) > len(body):
        raise InputRefused(f"header {JSON_LENGTH_HEADER}: expected 0 to {len(body)}, the body's bytes, seen {text!r}")
    return int(text)


def _json(content: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputRefused(f"expected a V2 request in JSON; {error}") from None
    if not isinstance(document, dict):
        raise InputRefused(f"expected a V2 request as a JSON object, seen {type(document).__name__}")
    return document


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found) or len(found) > MAX_INPUTS:
        raise InputRefused(f"{name}: expected a list of at most {MAX_INPUTS} objects")
    return found


def _input(where: str, fields: dict[str, Any], tensors: memoryview) -> tuple[InferInput, int]:
    """One input, and how many bytes of `tensors` are its own."""
    name = _field(fields, where, "name", str)
    datatype = _field(fields, where, "datatype", str).upper()
    shape, parameters = _shape(fields, where), _parameters(fields, where)
    size = parameters.pop("binary_data_size", None)
    if size is None:
        array = array_of_json(_field(fields, where, "data", list), datatype, shape, f"{where}.data")
        return InferInput(name, list(shape), datatype, array, parameters or None), 0
    if type(size) is not int or not 0 <= size <= len(tensors):
        raise InputRefused(
            f"{where}: expected binary_data_size of at most {len(tensors)}, the bytes there, seen {size}"
        )
    array = _array_of_bytes(tensors[:size], datatype, shape, where)
    return InferInput(name, list(shape), datatype, array, parameters or None), size


def _array_of_bytes(content: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    dtype, count = _dtype(datatype, where), math.prod(shape)
    if datatype == "BYTES":
        texts = _texts(content, count, where)
        array = np.empty(count, dtype=np.object_)
        array[:] = texts
        return array.reshape(shape)
    expected = count * dtype.itemsize
    if len(content) != expected:
        raise InputRefused(
            f"{where}: expected {expected} bytes for {datatype} of shape {list(shape)}, seen {len(content)}"
        )
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _texts(content: memoryview, count: int, where: str) -> list[bytes]:
    """The elements of a BYTES tensor: each a little-endian uint32 length, then so many bytes."""
    texts: list[bytes] = []
    offset = 0
    while offset + 4 <= len(content) and len(texts) < count:
        (length,) = struct.unpack_from("<I", content, offset)
        texts.append(bytes(content[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    if len(texts) != count or offset != len(content):
        raise InputRefused(f"{where}: expected {count} BYTES elements, each with its length before it")
    return texts


def _shape(fields: dict[str, Any], where: str) -> tuple[int, ...]:
    shape = _field(fields, where, "shape", list)
    if not 1 <= len(shape) <= 8 or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise InputRefused(f"{where}.shape: expected 1 to 8 integers of at least 0, seen {str(shape)[:80]}")
    return tuple(shape)


def _dtype(datatype: str, where: str) -> np.dtype[Any]:
    found = to_np_dtype(datatype)
    if found is None:
        raise InputRefused(f"{where}: expected a datatype of the V2 protocol, seen {datatype[:20]!r}")
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    if array.size == 0:
        return True
    if dtype.kind == "O":
        return all(isinstance(element, str) for element in array.flat)
    if array.dtype.kind == "O":
        return all(type(element) is int and 0 <= element < 2**64 for element in array.flat)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return array.dtype.kind in "iu" and int(array.min()) >= limits.min and int(array.max()) <= limits.max
    return array.dtype.kind in {"b": "b", "f": "iuf"}.get(dtype.kind, "")


def _field(fields: dict[str, Any], where: str, name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind):
        seen = "none" if value is None else type(value).__name__
        raise InputRefused(f"{where}.{name}: expected {'a list' if kind is list else 'a string'}, seen {seen}")
    return value


def _parameters(fields: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = fields.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InputRefused(f"{where}.parameters: expected an object, seen {type(parameters).__name__}")
    return dict(parameters)


def _optional_text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise InputRefused(f"{name}: expected a string, seen {type(value).__name__}")
    return value
