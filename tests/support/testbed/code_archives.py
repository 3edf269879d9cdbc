"""Archives as torch writes compiled code, with whatever in them; none of it is code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = "data/aotinductor/model"
ENTRIES = {
    f"{FOLDER}/cabc.wrapper.so": b"\x7fELF",
    f"{FOLDER}/cabc.wrapper.cpp": b"int main();",
    f"{FOLDER}/cabc.kernel.cpp": b"void k();",
    f"{FOLDER}/cabc.wrapper_metadata.json": b"{}",
    f"{FOLDER}/ck.cubin": b"kernel",
    "archive_format": b"pt2",
    "archive_version": b"0",
    ".data/version": b"6\n",
}


def write(path: Path, entries: Mapping[str, bytes] = ENTRIES, *, root: str = "code", compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in entries.items():
            made.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, compression)
    return path
