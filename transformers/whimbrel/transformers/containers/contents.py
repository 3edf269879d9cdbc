"""The common words of all formats: what a file is taken apart into, and the error when that is not possible."""

from __future__ import annotations

import struct
from dataclasses import dataclass


class Broken(ValueError):
    """Not a whole file of its format; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Contents:
    """`content` is what the decoder is given. `aside` is what it is not: metadata, and what follows the image.

    `width` and `height` are those of the stored picture, `orientation` (1 to 8, EXIF 2.32) turns it upright.
    `workspace` is how many bytes the decoder holds besides the picture. `inverted`: the samples are CMYK as they are,
    which a decoder that takes all CMYK for Adobe's inverts.
    """

    width: int
    height: int
    content: bytes
    orientation: int = 1
    aside: tuple[bytes, ...] = ()
    workspace: int = 0
    inverted: bool = False


def unpack(layout: str, content: bytes, offset: int) -> tuple[int, ...]:
    """`struct.unpack_from` for whole numbers; raises Broken where the file ends too early."""
    if offset < 0 or offset + struct.calcsize(layout) > len(content):
        raise Broken(f"truncated: it ends at byte {len(content)}, before byte {offset + struct.calcsize(layout)}")
    return struct.unpack_from(layout, content, offset)


def add_part(parts: list[tuple[int, int]], start: int, end: int) -> None:
    """Adds [start, end), to the last part where it follows that."""
    if parts and parts[-1][1] == start:
        start = parts.pop()[0]
    parts.append((start, end))


def joined(content: bytes, kept: list[tuple[int, int]]) -> bytes:
    """The parts [start, end) of `content`, one after the other; `content` itself when that is all of it."""
    if len(kept) == 1 and kept[0] == (0, len(content)):
        return content
    view = memoryview(content)
    return b"".join(view[start:end] for start, end in kept)
