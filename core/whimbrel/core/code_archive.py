"""The rule for an archive of compiled code: opened and judged before torch does, which loads the machine code in it.

What it may hold is what torch 2.15's AOTInductor writes for a network whose weights stay outside: one shared object,
its C++ and CUDA sources and their metadata, and GPU kernels. Code cannot be judged by looking at it, so this only
keeps out what would be more than that (pickles, paths that lead elsewhere); whether the code is the right one is
decided by its digest, which comes from the registry.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Final, NoReturn

from whimbrel.core import stored_zip
from whimbrel.core.attestations import MAX_CODE_BYTES
from whimbrel.core.errors import PackageRefused
from whimbrel.core.stored_zip import ZipRefused

MAX_ENTRIES: Final = 2000
FORMAT = "archive_format"
_MARKERS = frozenset({FORMAT, "archive_version", "byteorder", ".data/version", ".data/serialization_id"})
_CODE = re.compile(r"data/aotinductor/model/[A-Za-z0-9_]{1,120}(\.(wrapper|kernel))?\.(so|cpp|cubin|fatbin)")
_METADATA = re.compile(r"data/aotinductor/model/[A-Za-z0-9_]{1,120}\.(wrapper|kernel)_metadata\.json")
_SHARED_OBJECT = ".so"


def check(path: Path) -> None:
    """Raises PackageRefused unless the file at `path` holds compiled code and nothing else. Imports no torch."""
    try:
        if path.stat().st_size > MAX_CODE_BYTES:
            _refuse(path, f"more than {MAX_CODE_BYTES} bytes")
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = stored_zip.entries(path, file, archive, max_entries=MAX_ENTRIES, known=_known)
            for name in entries:
                if name not in _MARKERS and not _CODE.fullmatch(name) and not _METADATA.fullmatch(name):
                    _refuse(path, f"the entry {name!r}: no part of compiled code")
            if FORMAT not in entries or archive.read(entries[FORMAT]) != b"pt2":
                _refuse(path, "another archive format than pt2")
    except ZipRefused as error:
        _refuse(path, str(error))
    except (OSError, *stored_zip.BROKEN) as error:
        _refuse(path, f"no readable archive ({error})")
    objects = sum(name.endswith(_SHARED_OBJECT) for name in entries)
    if objects != 1:
        _refuse(path, f"{objects} shared objects, expected is one")


def _known(_: str) -> None:
    return None


def _refuse(path: Path, seen: str) -> NoReturn:
    raise PackageRefused(f"expected compiled code in {path}, seen {seen}")
