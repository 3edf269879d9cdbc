"""PNG (W3C): header, palette, transparency and pixels. Texts, profiles and the frames of an animation are left out."""

from __future__ import annotations

from collections.abc import Iterator

from whimbrel.transformers.containers.contents import Broken, Contents, add_part, joined, unpack
from whimbrel.transformers.containers.exif import orientation

MAX_CHUNKS = 65_536

_SIGNATURE_BYTES = 8
_FRAME_BYTES = 12  # length, name and checksum around a chunk's data
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def read(content: bytes) -> Contents:
    """Raises Broken."""
    kept, aside, exif = [(0, _SIGNATURE_BYTES)], list[bytes](), b""
    width = height = None
    for name, start, end in _chunks(content):
        data = slice(start + 8, end - 4)
        if width is None:
            if name != b"IHDR":
                raise Broken(f"it starts with the chunk {name!r}, not with IHDR")
            width, height = unpack(">II", content, data.start)
        if name in _KEPT:
            add_part(kept, start, end)
        else:
            aside.append(content[data])
        if name == b"eXIf":
            exif = exif or content[data]
    assert width is not None and height is not None  # noqa: S101  (_chunks gives one at least)
    return Contents(width, height, joined(content, kept), orientation(exif), (*aside, content[end:]))


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each, to the last."""
    position = _SIGNATURE_BYTES
    for _ in range(MAX_CHUNKS):
        (length,) = unpack(">I", content, position)
        end = position + _FRAME_BYTES + length
        if end > len(content):
            raise Broken(f"truncated: it ends at byte {len(content)}, before byte {end}")
        name = content[position + 4 : position + 8]
        yield name, position, end
        if name == b"IEND":
            return
        position = end
    raise Broken(f"more than {MAX_CHUNKS} chunks")
