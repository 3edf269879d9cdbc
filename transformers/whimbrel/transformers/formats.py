"""Which image format the bytes are, by their own signature: names and content types are not believed."""

from __future__ import annotations

from whimbrel.core.errors import UnsupportedImage

# Pillow's name of each format that we decode.
PILLOW_NAMES = {"jpeg": "JPEG", "png": "PNG"}
DECODABLE = tuple(PILLOW_NAMES)

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
    (4, b"ftypavif", "avif"),
    (4, b"ftyphei", "heic"),
    (0, b"%PDF", "pdf"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"\x1f\x8b", "gzip"),
)


def image_format(content: bytes, allowed: tuple[str, ...] = DECODABLE) -> str:
    """One of `allowed`. Raises UnsupportedImage that says what was seen instead."""
    seen = sniff(content)
    if seen not in allowed:
        raise UnsupportedImage(f"expected an image as {' or '.join(allowed)}, seen {seen or _described(content)}")
    return seen


def sniff(content: bytes) -> str | None:
    for offset, signature, name in _SIGNATURES:
        if content.startswith(signature, offset):
            return name
    return None


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
