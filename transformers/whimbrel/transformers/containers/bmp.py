"""BMP: a header of a known size and rows of pixels as they are."""

from __future__ import annotations

from whimbrel.transformers.containers.contents import Broken, Contents, unpack

_OS2_HEADER = 12
_HEADERS = frozenset({_OS2_HEADER, 40, 52, 56, 64, 108, 124})
_AS_IT_IS, _BITFIELDS = 0, 3


def read(content: bytes) -> Contents:
    """Raises Broken; run-length encoded ones, which unpack to any size, are refused too."""
    pixels, header = unpack("<II", content, 10)
    if header not in _HEADERS:
        raise Broken(f"a header of {header} bytes")
    if header == _OS2_HEADER:
        width, height, _, bits = unpack("<HHHH", content, 18)
    else:
        width, height, _, bits, compression = unpack("<iiHHI", content, 18)
        if compression not in (_AS_IT_IS, _BITFIELDS):
            raise Broken(f"compression {compression}; run-length encoded BMP is not decoded")
    row = (width * bits + 31) // 32 * 4
    end = pixels + row * abs(height)
    if pixels < 14 + header or width < 1 or height == 0:
        raise Broken(f"{width} x {height} pixels that start at byte {pixels}")
    if end > len(content):
        raise Broken(f"truncated: it ends at byte {len(content)}, before byte {end}")
    return Contents(width, abs(height), content, aside=(content[14 + header : pixels], content[end:]))
