"""WebP (RFC 9649): the picture, or the first frame of an animation. Profiles, EXIF and XMP are left out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from whimbrel.transformers.containers.contents import Broken, Contents, unpack
from whimbrel.transformers.containers.exif import orientation

MAX_CHUNKS = 65_536

_ALPHA, _ANIMATION = 0x10, 0x02
_PICTURE = frozenset({b"VP8 ", b"VP8L", b"ANMF"})
_KEPT = _PICTURE | {b"VP8X", b"ALPH", b"ANIM"}
# Pillow decodes by libwebp's animation decoder: two canvases and the copy that it gives, 4 bytes each, and its rows.
_BYTES_A_PIXEL = 13


def read(content: bytes) -> Contents:
    """Raises Broken."""
    parts, aside, exif, seen_picture = list[bytes](), list[bytes](), b"", False
    size = None
    end = min(len(content), unpack("<I", content, 4)[0] + 8)
    for name, start, data_end in _chunks(content, end):
        data = content[start + 8 : data_end]
        if size is None:
            size = _size(name, data)
        if name in _KEPT and not seen_picture:
            parts.append(_chunk(name, _cleared(data) if name == b"VP8X" else data))
            seen_picture = name in _PICTURE
        elif name not in _KEPT:
            aside.append(data)
        if name == b"EXIF":
            exif = exif or data
    if size is None or not seen_picture:
        raise Broken("no picture in it")
    body = b"WEBP" + b"".join(parts)
    width, height = size
    return Contents(
        width,
        height,
        b"RIFF" + struct.pack("<I", len(body)) + body,
        orientation(exif),
        (*aside, content[end:]),
        workspace=width * height * _BYTES_A_PIXEL,
    )


def _chunks(content: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end of the data) of each."""
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > end:
            return
        (length,) = unpack("<I", content, position + 4)
        data_end = position + 8 + length
        if data_end > end:
            raise Broken(f"truncated: it ends at byte {end}, before byte {data_end}")
        yield content[position : position + 4], position, data_end
        position = data_end + (length & 1)
    raise Broken(f"more than {MAX_CHUNKS} chunks")


def _size(name: bytes, data: bytes) -> tuple[int, int]:
    if name == b"VP8X":
        low, high, low_2, high_2 = unpack("<HBHB", data, 4)
        return (low | high << 16) + 1, (low_2 | high_2 << 16) + 1
    if name == b"VP8L":
        (bits,) = unpack("<I", data, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 ":
        width, height = unpack("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise Broken(f"it starts with the chunk {name!r}")


def _cleared(data: bytes) -> bytes:
    """VP8X without the flags of what is left out."""
    return bytes([unpack("B", data, 0)[0] & (_ALPHA | _ANIMATION)]) + data[1:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) & 1)
