"""Small images of every format and mode, and the ways in which they break."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_WIDTH, _HEIGHT = 90, 60


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    target = BytesIO()
    image.save(target, format_, **options)
    return target.getvalue()


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth, so that a JPEG of it stays near it."""
    across = np.linspace(0, 255, width, dtype=np.float32)[np.newaxis, :]
    down = np.linspace(255, 0, height, dtype=np.float32)[:, np.newaxis]
    stack = np.stack([across + 0 * down, down + 0 * across, (across + down) / 2], axis=-1)
    rgb = Image.fromarray(stack.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    return rgb.convert(mode)


@cache
def whole_images() -> dict[str, bytes]:
    """One small file for each structure that a reader meets, by a name that starts with its format."""

    def of(mode: str, format_: str, **options: Any) -> bytes:
        return encoded(picture(_WIDTH, _HEIGHT, mode), format_, **options)

    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(_WIDTH, _HEIGHT).rotate(turn) for turn in (90, 180)]
    animated = {"save_all": True, "append_images": frames}
    palette = encoded(picture(_WIDTH, _HEIGHT).quantize(8), transparency=3)
    files = {
        "jpeg": of("RGB", "JPEG", exif=exif, comment=b"a comment"),
        "jpeg progressive": of("RGB", "JPEG", progressive=True),
        "jpeg grey": of("L", "JPEG"),
        "jpeg cmyk": of("CMYK", "JPEG"),
        "png": of("RGB", "PNG", exif=exif),
        "png palette": palette,
        "png interlaced": adam7(picture(_WIDTH, _HEIGHT)),
        "webp": of("RGB", "WEBP", exif=exif),
        "webp lossless": of("RGBA", "WEBP", lossless=True),
        "webp animated": of("RGB", "WEBP", **animated),
        "gif": of("P", "GIF", comment=b"a comment", transparency=3),
        "gif animated": of("P", "GIF", disposal=2, **animated),
        "bmp": of("RGB", "BMP"),
        "bmp palette": of("P", "BMP"),
        "tiff": of("RGB", "TIFF", tiffinfo=exif),
        "tiff cmyk": of("CMYK", "TIFF"),
        "tiff 16 bits": of("I;16", "TIFF"),
    }
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        files[f"tiff {compression}"] = of("RGB", "TIFF", compression=compression)
    return files


def adam7(image: Image.Image) -> bytes:
    """A grey PNG whose pixels come in the seven passes of Adam7, which Pillow reads and does not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    pixels = np.asarray(image.convert("L"))
    parts = (pixels[top::down, left::across] for left, top, across, down in passes)
    rows = b"".join(b"\x00" + row.tobytes() for part in parts for row in part)  # each without a filter

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *image.size, 8, 0, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def truncations(content: bytes, count: int = 40) -> Iterator[bytes]:
    """Ends at every one of the first bytes, where the structure is, and then at `count` places."""
    for end in [*range(min(len(content), 64)), *range(64, len(content), max(1, len(content) // count))]:
        yield content[:end]


def flipped(content: bytes, seed: int, most: int = 8) -> bytes:
    """With a few bytes changed, more often than not near the start."""
    chance = random.Random(seed)  # noqa: S311
    changed = bytearray(content)
    for _ in range(chance.randint(1, most)):
        within = min(len(changed), chance.choice([32, 128, 512, len(changed)]))
        changed[chance.randrange(within)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return bytes(changed)


def swapped_header(content: bytes, other: bytes, length: int) -> bytes:
    """The first bytes of another file before the rest of this one."""
    return other[:length] + content[length:]
