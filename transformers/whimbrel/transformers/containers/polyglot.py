"""Files that are an image and something else at once: what shows the one and runs or unpacks the other is refused."""

from __future__ import annotations

from collections.abc import Iterable

from whimbrel.transformers.containers.contents import unpack

_ZIP_END, _ZIP_END_BYTES, _MAX_ZIP_COMMENT = b"PK\x05\x06", 22, 65_535
_PDF_WITHIN_BYTES = 1024  # where PDF readers look for its signature

# Looked for in lower case, in what no pixel needs.
_SIGNATURES = {
    b"<html": "HTML",
    b"<!doctype html": "HTML",
    b"<script": "a script",
    b"<?php": "PHP",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"rar!\x1a\x07": "a RAR archive",
}


def second_format(content: bytes, aside: Iterable[bytes]) -> str | None:
    """What else `content` is; `aside` are the parts of it that the image does not need."""
    if _ends_as_zip(content):
        return "a ZIP archive"
    if b"%PDF-" in content[:_PDF_WITHIN_BYTES]:
        return "a PDF"
    for part in aside:
        lower = part.lower()
        for signature, name in _SIGNATURES.items():
            if signature in lower:
                return name
    return None


def _ends_as_zip(content: bytes) -> bool:
    """A ZIP is read from its end, so it may stand behind anything."""
    tail = max(0, len(content) - _ZIP_END_BYTES - _MAX_ZIP_COMMENT)
    at = content.rfind(_ZIP_END, tail)
    while at >= 0:
        if at + _ZIP_END_BYTES <= len(content):
            directory_bytes, directory_at, comment = unpack("<IIH", content, at + 12)
            if directory_bytes + directory_at <= at and at + _ZIP_END_BYTES + comment <= len(content):
                return True
        at = content.rfind(_ZIP_END, tail, at + len(_ZIP_END) - 1)
    return False
