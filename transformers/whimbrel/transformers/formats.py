"""Which image format the bytes are, by their own signature: names and content types are not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whimbrel.core.errors import UnsupportedImage
from whimbrel.transformers.containers import bmp, gif, jpeg, png, tiff, webp
from whimbrel.transformers.containers.contents import Contents


@dataclass(frozen=True, slots=True)
class Format:
    """`read` takes a file apart; `pillow_name` is the only decoder of Pillow that may see the result."""

    pillow_name: str
    read: Callable[[bytes], Contents]


FORMATS = {
    "jpeg": Format("JPEG", jpeg.read),
    "png": Format("PNG", png.read),
    "webp": Format("WEBP", webp.read),
    "gif": Format("GIF", gif.read),
    "bmp": Format("BMP", bmp.read),
    "tiff": Format("TIFF", tiff.read),
}
DECODABLE = tuple(FORMATS)

# Signatures of what comes by, so that a refusal can name it: (offset, bytes, name).
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (8, b"WEBP", "webp"),
    (0, b"BM", "bmp"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"II+\x00", "BigTIFF"),
    (0, b"MM\x00+", "BigTIFF"),
    (4, b"ftypavif", "avif"),
    (4, b"ftyphei", "heic"),
    (4, b"ftyp", "a video"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg 2000"),
    (0, b"8BPS", "psd"),
    (0, b"%PDF", "pdf"),
    (0, b"%!PS", "postscript"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x1f\x8b", "gzip"),
)


def image_format(content: bytes, allowed: tuple[str, ...] = DECODABLE) -> str:
    """One of `allowed`. Raises UnsupportedImage that says what was seen instead."""
    seen = sniff(content)
    if seen not in allowed:
        raise UnsupportedImage(f"expected an image as {_either(allowed)}, seen {seen or _described(content)}")
    return seen


def sniff(content: bytes) -> str | None:
    for offset, signature, name in _SIGNATURES:
        if content.startswith(signature, offset):
            return name
    return None


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _described(content: bytes) -> str:
    if not content:
        return "an empty file"
    head = content[:512]
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return f"unknown content that starts with {head[:8].hex(' ')}"
    printable = all(byte >= 32 or byte in b"\t\n\r\f\x1b" for byte in head)
    return "text" if printable else f"unknown content that starts with {head[:8].hex(' ')}"
