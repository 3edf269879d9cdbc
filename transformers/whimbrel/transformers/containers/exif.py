"""The orientation in EXIF data: the one tag that changes how the picture looks."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3
_MAX_ENTRIES = 1000


def orientation(exif: bytes) -> int:
    """1 to 8; what is broken or unknown counts as upright: a bad tag is no reason to refuse the picture."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(min(count, _MAX_ENTRIES)):
            tag, type_, _, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if tag == _ORIENTATION:
                return value if type_ == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
