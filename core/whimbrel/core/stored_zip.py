"""A zip that has one reading only, whoever reads it: torch's reader and Python's find the same entries in it.

Entries are stored uncompressed below one root folder, each name once and none that leads out of it, and the directory
ends the file.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

_ROOT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

# What `zipfile` raises for what is no zip, or a broken one.
BROKEN = (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError, OverflowError)


class ZipRefused(Exception):
    """What was seen instead of such a zip."""


def entries(
    path: Path, file: BinaryIO, archive: zipfile.ZipFile, *, max_entries: int, known: Callable[[str], str | None]
) -> dict[str, zipfile.ZipInfo]:
    """The entries by their name below the root folder. `known` tells what a name outside of it means, if anything.

    Raises ZipRefused.
    """
    infos = archive.infolist()
    if not 1 <= len(infos) <= max_entries:
        _refuse(f"{len(infos)} entries, allowed are 1 to {max_entries}")
    _check_one_reading(path, file, len(infos))
    root = infos[0].filename.split("/")[0]
    if not _ROOT.fullmatch(root) or ".." in root:
        _refuse(f"the root folder {root!r}")
    found: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        _check_entry(info, root, known)
        if info.filename.casefold() in seen:  # torch's reader ignores case
            _refuse(f"the entry {info.filename!r} twice")
        seen.add(info.filename.casefold())
        found[info.filename.removeprefix(f"{root}/")] = info
    if sum(info.file_size for info in infos) > path.stat().st_size:
        _refuse("entries that overlap: together they are larger than the file")
    return found


def _check_one_reading(path: Path, file: BinaryIO, count: int) -> None:
    """The directory ends the file, without a gap or a comment: so torch's reader finds the one that we found."""
    size = path.stat().st_size
    file.seek(max(0, size - 98))
    tail = file.read()
    end = tail[-22:]
    here, total, directory_size, directory_offset = struct.unpack("<HHII", end[8:20])
    if end[:4] != b"PK\x05\x06" or end[20:22] != b"\x00\x00":
        _refuse("bytes behind the zip's directory")
    directory_end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        directory_end = size - 98
        record = tail[:56]
        wide = struct.unpack("<QQQQ", record[24:56])
        saturated = (min(wide[0], 0xFFFF), min(wide[1], 0xFFFF), min(wide[2], 0xFFFFFFFF), min(wide[3], 0xFFFFFFFF))
        located = struct.unpack("<Q", tail[-34:-26])[0] == directory_end and record[:4] == b"PK\x06\x06"
        if not located or saturated != (here, total, directory_size, directory_offset):
            _refuse("two directories that differ")
        here, total, directory_size, directory_offset = wide
    if directory_offset + directory_size != directory_end or not here == total == count:
        _refuse("a zip directory that is not where it says")
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        _refuse("bytes before the first entry")


def _check_entry(info: zipfile.ZipInfo, root: str, known: Callable[[str], str | None]) -> None:
    name = info.filename
    parts = name.split("/")
    if parts[0] != root or len(parts) < 2 or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        _refuse(f"the entry {name!r}: {known(name) or 'a name outside of its root folder'}")
    if info.orig_filename != name:
        _refuse(f"the entry {name!r}: a name with a second reading")
    if info.flag_bits & 0x1:
        _refuse(f"the entry {name!r}: encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        _refuse(f"the entry {name!r}: compressed, which torch never writes")
    if stat.S_ISLNK(info.external_attr >> 16):
        _refuse(f"the entry {name!r}: a symbolic link")


def _refuse(seen: str) -> NoReturn:
    raise ZipRefused(seen)
