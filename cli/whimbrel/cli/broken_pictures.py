"""Objects that look like pictures and are none, as every bucket has some: the demo and the tests put them in."""

from __future__ import annotations

import io
import struct
import zlib

BOMB_SIDE = 30_000


def broken_pictures() -> dict[str, bytes]:
    """Object name to content; every one has to end as a dead letter with its own reason."""
    return {
        "truncated.jpg": truncated_jpeg(),
        "text-named.png": b"Dear bucket,\nthis is a letter and not a picture.\n",
        "decompression-bomb.png": png_bomb(BOMB_SIDE),
        "empty.png": b"",
    }


def truncated_jpeg() -> bytes:
    """The first half of a JPEG, as an interrupted copy leaves it."""
    from PIL import Image

    gradient = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    buffer = io.BytesIO()
    gradient.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()[: buffer.tell() // 2]


def png_bomb(side: int) -> bytes:
    """A valid black PNG of `side` x `side` pixels: a few kilobytes that decode to side * side * 3 bytes of RGB."""
    row = b"\x00" * (1 + (side + 7) // 8)  # filter byte, then one bit a pixel
    compressor = zlib.compressobj(9)
    scanlines = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", scanlines) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
