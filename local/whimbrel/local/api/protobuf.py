"""Reads the few kinds that kubectl writes as protobuf whatever it is told: `kubectl create namespace`, `configmap`...

The numbers are those of Kubernetes' own generated.proto files, https://github.com/kubernetes/api and apimachinery.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from whimbrel.local.api.faults import UnsupportedMediaType

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5

Read = Callable[[Any], Any]
Fields = Mapping[int, tuple[str, Read]]


def parsed(body: bytes) -> Any:
    """The object in Kubernetes' envelope. Raises UnsupportedMediaType for other kinds, ValueError for broken bytes."""
    if not body.startswith(_MAGIC):
        raise ValueError("expected Kubernetes' envelope")
    envelope = dict(_fields(body[len(_MAGIC) :]))
    type_ = {number: _text(value) for number, value in _fields(envelope.get(1, b""))}
    api_version, kind = type_.get(1, ""), type_.get(2, "")
    known = _KINDS.get(kind) if api_version == "v1" else None
    if known is None:
        raise UnsupportedMediaType(
            f"{kind} ({api_version}): not read as protobuf here; send it as YAML or JSON, for example with "
            "'kubectl create ... --dry-run=client -o yaml | kubectl apply -f -'"
        )
    return {"apiVersion": api_version, "kind": kind, **_message(known)(envelope.get(2, b""))}


def field(number: int, value: bytes | str) -> bytes:
    """One field of a message, as text or with another message in it."""
    content = value.encode() if isinstance(value, str) else value
    length, size = b"", len(content)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | _BYTES]) + length + bytes([size]) + content


def _message(known: Fields) -> Read:
    def read(value: bytes) -> dict[str, Any]:
        """What the table has; a field that comes twice is a list, or a map that grows."""
        found: dict[str, Any] = {}
        for number, item in _fields(value):
            if number in known:
                name, read_item = known[number]
                new = read_item(item)
                if isinstance(new, dict) and isinstance(found.get(name), dict):
                    found[name] |= new
                else:
                    found[name] = [*found.get(name, []), *new] if isinstance(new, list) else new
        return found

    return read


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Field numbers with their values, in the order of the wire. Raises ValueError."""
    value, position = _bytes(message), 0
    while position < len(value):
        tag, position = _varint(value, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            item, position = _varint(value, position)
            yield number, item
            continue
        if wire not in (_BYTES, _FIXED_64, _FIXED_32):
            raise ValueError(f"wire type {wire}")
        size, position = _varint(value, position) if wire == _BYTES else ({_FIXED_64: 8, _FIXED_32: 4}[wire], position)
        if position + size > len(value):
            raise ValueError("the message ends in the middle of a field")
        yield number, value[position : position + size]
        position += size


def _varint(value: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(value) and shift < 70:
        byte = value[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ValueError("the message ends in the middle of a number")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("expected bytes, seen a number")
    return value


def _text(value: Any) -> str:
    return _bytes(value).decode()


def _base64(value: Any) -> str:
    return base64.b64encode(_bytes(value)).decode()


def _texts(value: bytes) -> list[str]:
    return [_text(value)]


def _map_of(read: Read) -> Read:
    def entry(value: bytes) -> dict[str, Any]:
        pair = dict(_fields(value))
        return {_text(pair.get(1, b"")): read(pair.get(2, b""))}

    return entry


_TEXT_MAP, _BYTES_MAP = _map_of(_text), _map_of(_base64)
_METADATA = _message(
    {
        1: ("name", _text),
        2: ("generateName", _text),
        3: ("namespace", _text),
        5: ("uid", _text),
        6: ("resourceVersion", _text),
        11: ("labels", _TEXT_MAP),
        12: ("annotations", _TEXT_MAP),
        14: ("finalizers", _texts),
    }
)
_KINDS: dict[str, Fields] = {
    "Namespace": {1: ("metadata", _METADATA)},
    "ServiceAccount": {1: ("metadata", _METADATA)},
    "ConfigMap": {
        1: ("metadata", _METADATA),
        2: ("data", _TEXT_MAP),
        3: ("binaryData", _BYTES_MAP),
        4: ("immutable", bool),
    },
    "Secret": {
        1: ("metadata", _METADATA),
        2: ("data", _BYTES_MAP),
        3: ("type", _text),
        4: ("stringData", _TEXT_MAP),
        5: ("immutable", bool),
    },
}
