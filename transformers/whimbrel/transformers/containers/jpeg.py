"""JPEG (ITU T.81): segments up to the first scan. APP1 and APP2, where EXIF, ICC and previews live, are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from whimbrel.transformers.containers.contents import Broken, Contents, add_part, joined, unpack
from whimbrel.transformers.containers.exif import orientation

MAX_SEGMENTS = 4096
MAX_SCANS = 100  # a usual progressive file has 10; each one costs another walk over all pixels

_MARKER = re.compile(rb"\xff+([\xc0-\xfe])")
_SCAN_OR_END = re.compile(rb"\xff[\xd9\xda]")
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # baseline, extended, progressive, and these with arithmetic coding
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_UNSUPPORTED = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE})  # lossless and hierarchical
_STANDALONE = frozenset({*range(0xD0, 0xDA)})  # restarts, start and end: none belongs before the first scan
_START_OF_SCAN, _JFIF, _EXIF, _ADOBE, _COMMENT = 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
_BLOCK = 8


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    start: int  # of the marker
    data: int  # of what it carries
    end: int


@dataclass(frozen=True, slots=True)
class _Frame:
    progressive: bool
    height: int
    width: int
    sampling: tuple[tuple[int, int], ...]  # (horizontal, vertical) of each component

    @property
    def coefficient_bytes(self) -> int:
        """What a decoder holds that needs all scans before it has the first row."""
        most_across, most_down = (max(factors) for factors in zip(*self.sampling, strict=True))
        return sum(
            2
            * _rounded_up(-(-self.width * across // most_across), across * _BLOCK)
            * _rounded_up(-(-self.height * down // most_down), down * _BLOCK)
            for across, down in self.sampling
        )


def read(content: bytes) -> Contents:
    """Raises Broken."""
    kept, aside, exif, frame, adobe = [(0, 2)], list[bytes](), b"", None, False
    for segment in _segments(content):
        data = content[segment.data : segment.end]
        if segment.marker == _START_OF_SCAN:
            break
        if segment.marker in _FRAMES:
            frame = _frame(segment.marker, data)
        if segment.marker == _EXIF and data.startswith(b"Exif\x00\x00"):
            exif = exif or data
        adobe = adobe or (segment.marker == _ADOBE and data.startswith(b"Adobe"))
        if _JFIF < segment.marker < _ADOBE or segment.marker in (_ADOBE + 1, _COMMENT):
            aside.append(data)
        else:
            add_part(kept, segment.start, segment.end)
    if frame is None:
        raise Broken("a scan before any frame")
    add_part(kept, segment.start, len(content))
    end = _end(content, segment)
    several = frame.progressive or content[segment.data] < len(frame.sampling)
    return Contents(
        frame.width,
        frame.height,
        joined(content, kept),
        orientation(exif),
        (*aside, content[end:]),
        workspace=frame.coefficient_bytes if several else 0,
        inverted=len(frame.sampling) == 4 and not adobe,
    )


def _segments(content: bytes) -> Iterator[_Segment]:
    """Up to the first scan's header, which is the last."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.match(content, position)
        if found is None:
            seen = content[position : position + 2]
            raise Broken(f"no marker at byte {position}" if len(seen) == 2 else "truncated: it ends before its picture")
        marker = found[1][0]
        if marker in _STANDALONE or marker in _UNSUPPORTED:
            raise Broken(f"marker ff {marker:02x} before the picture; lossless and hierarchical JPEG are not decoded")
        (length,) = unpack(">H", content, found.end())
        # Any number of 0xff may stand before a marker: they are left out.
        segment = _Segment(marker, found.end() - 2, found.end() + 2, found.end() + length)
        if length < 2 or segment.end > len(content):
            raise Broken(f"truncated: the segment at byte {position} has {length} bytes")
        yield segment
        if marker == _START_OF_SCAN:
            return
        position = segment.end
    raise Broken(f"more than {MAX_SEGMENTS} segments before the picture")


def _frame(marker: int, data: bytes) -> _Frame:
    _, height, width, components = unpack(">BHHB", data, 0)
    sampling = tuple((each >> 4, each & 15) for (each,) in (unpack("B", data, 7 + 3 * i) for i in range(components)))
    if not 1 <= components <= 4 or any(not (1 <= across <= 4 and 1 <= down <= 4) for across, down in sampling):
        raise Broken(f"a frame of {components} components with the sampling {sampling[:4]}")
    return _Frame(marker in _PROGRESSIVE, height, width, sampling)


def _end(content: bytes, first_scan: _Segment) -> int:
    """Where the picture ends: inside entropy-coded data 0xff is always followed by 0x00 or a restart marker."""
    for scans, found in enumerate(_SCAN_OR_END.finditer(content, first_scan.start)):
        if found[0] == b"\xff\xd9":
            return found.end()
        if scans >= MAX_SCANS:
            raise Broken(f"more than {MAX_SCANS} scans")
    return len(content)


def _rounded_up(value: int, step: int) -> int:
    return -(-value // step) * step
