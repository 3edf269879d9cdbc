"""TIFF 6.0: the first picture, with the tags alone that its pixels need, every array in bounds."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from whimbrel.transformers.containers.contents import Broken, Contents, unpack
from whimbrel.transformers.containers.exif import orientation

MAX_ENTRIES = 1000
MAX_SEGMENTS = 65_536

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_FILL_ORDER, _PREDICTOR, _COLOUR_MAP, _EXTRA_SAMPLES = 266, 317, 320, 338
_JPEG_TABLES, _COEFFICIENTS, _SUBSAMPLING, _BLACK_AND_WHITE = 347, 529, 530, 532
_KEPT = frozenset(
    {
        *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES),
        *(_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT, _FILL_ORDER, _PREDICTOR),
        *(_COLOUR_MAP, _EXTRA_SAMPLES, _JPEG_TABLES, _COEFFICIENTS, _SUBSAMPLING, _BLACK_AND_WHITE),
    }
)
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBERS = {1: "B", 3: "H", 4: "I"}

_NONE, _JPEG = 1, 7
_COMPRESSIONS = {_NONE: "none", 5: "LZW", _JPEG: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_PHOTOMETRICS = {0: "white is zero", 1: "black is zero", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}
_SEPARATE_PLANES = 2
_LEAST_SEGMENT_PIXELS = 2**20  # a tile may be larger than a small picture, within reason


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    type: int
    count: int
    offset: int  # of the values


class _Directory:
    """The kept entries of the first directory."""

    def __init__(self, content: bytes) -> None:
        self.content, self.order = content, "<" if content.startswith(b"II") else ">"
        (self.start,) = unpack(self.order + "I", content, 4)
        (self.count,) = unpack(self.order + "H", content, self.start)
        if not 1 <= self.count <= MAX_ENTRIES:
            raise Broken(f"a directory of {self.count} entries")
        self.end = self.start + 2 + 12 * self.count
        unpack("12s", content, self.end - 12)
        every = [self._entry(self.start + 2 + 12 * index) for index in range(self.count)]
        kept = [entry for entry in every if entry is not None]
        self.entries = {entry.tag: entry for entry in kept}
        if len(self.entries) < len(kept):  # decoders differ in which of them they read
            raise Broken("a directory with a tag twice")
        if sum(_TYPE_BYTES[entry.type] * entry.count for entry in self.entries.values()) > len(content):
            raise Broken("tags that claim more bytes than the file has")

    def _entry(self, position: int) -> _Entry | None:
        tag, type_, count = unpack(self.order + "HHI", self.content, position)
        if tag not in _KEPT:
            return None
        size = _TYPE_BYTES.get(type_, 0) * count
        if size == 0:
            raise Broken(f"tag {tag} of {count} values of the type {type_}")
        offset = position + 8 if size <= 4 else unpack(self.order + "I", self.content, position + 8)[0]
        if offset + size > len(self.content):
            raise Broken(f"truncated: tag {tag} has values up to byte {offset + size} of {len(self.content)}")
        return _Entry(tag, type_, count, offset)

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        entry = self.entries.get(tag)
        if entry is None:
            return default
        if entry.type not in _NUMBERS or entry.count > MAX_SEGMENTS:
            raise Broken(f"tag {tag} of {entry.count} values of the type {entry.type}")
        return unpack(f"{self.order}{entry.count}{_NUMBERS[entry.type]}", self.content, entry.offset)

    def number(self, tag: int, default: int | None = None) -> int:
        values = self.numbers(tag)
        if values:
            return values[0]
        if default is None:
            raise Broken(f"no tag {tag}")
        return default

    def cleaned(self) -> bytes:
        """The file with these entries as its only ones: they take the old directory's place."""
        at = self.start
        kept = [
            self.content[position : position + 12]
            for position in range(at + 2, self.end, 12)
            if unpack(self.order + "H", self.content, position)[0] in _KEPT
        ]
        # Values of up to 4 bytes stand in the entry itself, so an entry may be moved as it is.
        directory = struct.pack(self.order + "H", len(kept)) + b"".join(kept) + b"\x00" * 4
        room = self.end + 4 - at
        view = memoryview(self.content)
        return b"".join((view[:at], directory.ljust(room, b"\x00"), view[at + room :]))

    def between_segments(self) -> tuple[bytes, ...]:
        """What is no part of any tile or strip whose place is known."""
        parts, position = [], 0
        tiled = _TILE_OFFSETS in self.entries
        offsets = self.numbers(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
        sizes = self.numbers(_TILE_BYTES if tiled else _STRIP_BYTES)
        for offset, size in sorted(zip(offsets, sizes, strict=bool(sizes))):
            if offset > position:
                parts.append(self.content[position:offset])
            position = max(position, offset + size)
        return (*parts, self.content[position:])


def read(content: bytes) -> Contents:
    """Raises Broken."""
    directory = _Directory(content)
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    compression = directory.number(_COMPRESSION, _NONE)
    if compression not in _COMPRESSIONS:
        raise Broken(f"compression {compression}; decoded are {', '.join(dict.fromkeys(_COMPRESSIONS.values()))}")
    samples, bits = _samples(directory)
    segment_pixels = _segment_pixels(directory, width, height, samples, compression)
    workspace = 0 if compression == _NONE else segment_pixels * (samples * bits + 7) // 8
    if compression == _JPEG:
        workspace += segment_pixels * samples * 2  # coefficients of a progressive one
    return Contents(width, height, directory.cleaned(), orientation(content), directory.between_segments(), workspace)


def _samples(directory: _Directory) -> tuple[int, int]:
    """(how many a pixel has, bits of each)."""
    samples, bits = directory.number(_SAMPLES, 1), set(directory.numbers(_BITS, (1,)))
    photometric = directory.number(_PHOTOMETRIC, 0)
    if photometric not in _PHOTOMETRICS:
        raise Broken(f"photometric interpretation {photometric}; decoded are {', '.join(_PHOTOMETRICS.values())}")
    if len(bits) != 1 or not bits <= {1, 2, 4, 8, 16} or not 1 <= samples <= 6:
        raise Broken(f"{samples} samples of {'/'.join(map(str, sorted(bits)[:6]))} bits; decoded are 1 to 16 bits")
    if set(directory.numbers(_SAMPLE_FORMAT, (1,))) != {1}:
        raise Broken("signed or floating point samples; decoded are unsigned integers")
    if photometric == 0 and bits == {16}:
        raise Broken("16 bits where white is zero; decoded are those where black is zero")
    return samples, bits.pop()


def _segment_pixels(directory: _Directory, width: int, height: int, samples: int, compression: int) -> int:
    """Pixels of one tile or strip. Refuses more of them than the picture has room for, and ones that overlap."""
    if _TILE_OFFSETS in directory.entries:
        offsets, sizes = directory.numbers(_TILE_OFFSETS), directory.numbers(_TILE_BYTES)
        across, down = directory.number(_TILE_WIDTH), directory.number(_TILE_HEIGHT)
    else:
        offsets, sizes = directory.numbers(_STRIP_OFFSETS), directory.numbers(_STRIP_BYTES)
        across, down = width, min(height, directory.number(_STRIP_ROWS, height))
    if not across * down or across * down > max(width * height * 4, _LEAST_SEGMENT_PIXELS):
        raise Broken(f"tiles of {across} x {down} in a picture of {width} x {height}")
    planes = samples if directory.number(_PLANAR, 1) == _SEPARATE_PLANES else 1
    expected = -(-width // across) * -(-height // down) * planes
    if len(offsets) != expected or ((sizes or compression != _NONE) and len(sizes) != expected):
        raise Broken(f"expected {expected} tiles or strips, seen {len(offsets)} with {len(sizes)} sizes")
    if sum(sizes) > len(directory.content):
        raise Broken(f"truncated, or its tiles overlap: they have {sum(sizes)} bytes of {len(directory.content)}")
    return across * down
