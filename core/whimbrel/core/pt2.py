"""The rule for `model.pt2`: opened and judged before torch does, which would unpickle whatever the file asks it to.

torch 2.15's own loader (torch/export/pt2_archive/_package.py) unpickles: sample inputs, payloads with `use_pickle`,
custom and opaque objects, the blobs `<model>.pt` of older files, and the single-file format before them; it loads
the shared objects of an AOTInductor folder. So an archive is read by an allow-list: the entries that plain tensors
and one graph need, stored uncompressed, each name once, in a zip that has one reading only. What the graph itself
may ask for is judged by `whimbrel.core.pt2_graph`. Files from elsewhere become such archives by
`whimbrel model import`.
"""

from __future__ import annotations

import json
import math
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from whimbrel.core.errors import PackageRefused
from whimbrel.core.pt2_graph import GraphRefused, check_program

MAX_ENTRIES: Final = 20_000
MAX_JSON_BYTES: Final = 64 * 1024 * 1024
MAX_MARKER_BYTES: Final = 64

PROGRAM = "models/model.json"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
FORMAT = "archive_format"
VERSION = "archive_version"
_MARKERS = frozenset({FORMAT, VERSION, "byteorder", ".data/version", ".data/serialization_id"})
_JSON = frozenset({PROGRAM, WEIGHTS_CONFIG, CONSTANTS_CONFIG})
_REQUIRED = _JSON | {SAMPLE_INPUTS, FORMAT, VERSION}
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]{1,6}")
_ROOT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")

# Entries that are known and never taken, and why.
_REFUSED = (
    (re.compile(r"data/constants/(custom|opaque)_obj_.*"), "an object that only a pickle can carry"),
    (re.compile(r"data/(weights|constants)/[^/]*\.pt"), "a pickle of the older format"),
    (re.compile(r"data/aotinductor/.*"), "machine code"),
    (re.compile(r"(.*/)?serialized_[a-z_]+\.(pt|json)|version"), "the legacy format, which is read by unpickling"),
    (re.compile(r"(.*/)?(data\.pkl|constants\.pkl)"), "a pickle of torch.save or TorchScript"),
)


def check(path: Path) -> None:
    """Raises PackageRefused unless torch.export.load reads the file at `path` without unpickling or running any of it.

    Reads the directory and the JSON parts, not the tensors; imports no torch.
    """
    if not path.is_file():
        raise PackageRefused(f"expected an exported network at {path}, seen no such file")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = _entries(path, file, archive)
            _check_kinds(path, archive, entries)
            for config in (WEIGHTS_CONFIG, CONSTANTS_CONFIG):
                _check_payloads(path, config, _json(path, archive, entries[config]), entries)
            check_program(_json(path, archive, entries[PROGRAM]))
    except GraphRefused as error:
        _refuse(path, str(error))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError, OverflowError) as error:
        _refuse(path, f"no readable pt2 archive ({error})")
    except (KeyError, TypeError, AttributeError):
        _refuse(path, "a part that is not of torch's schema 8")
    except (RecursionError, MemoryError):
        _refuse(path, "JSON that is nested too deep")


def _entries(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by their name below the root folder, after the checks on the zip itself."""
    infos = archive.infolist()
    if not 1 <= len(infos) <= MAX_ENTRIES:
        _refuse(path, f"{len(infos)} entries, allowed are 1 to {MAX_ENTRIES}")
    _check_one_reading(path, file, len(infos))
    root = infos[0].filename.split("/")[0]
    if not _ROOT.fullmatch(root) or ".." in root:
        _refuse(path, f"the root folder {root!r}")
    entries: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        _check_entry(path, info, root)
        if info.filename.casefold() in seen:  # torch's reader ignores case
            _refuse(path, f"the entry {info.filename!r} twice")
        seen.add(info.filename.casefold())
        entries[info.filename.removeprefix(f"{root}/")] = info
    if sum(info.file_size for info in infos) > path.stat().st_size:
        _refuse(path, "entries that overlap: together they are larger than the file")
    return entries


def _check_one_reading(path: Path, file: BinaryIO, count: int) -> None:
    """The directory ends the file, without a gap or a comment: so torch's reader finds the one that we found."""
    size = path.stat().st_size
    file.seek(max(0, size - 98))
    tail = file.read()
    end = tail[-22:]
    here, total, directory_size, directory_offset = struct.unpack("<HHII", end[8:20])
    if end[:4] != b"PK\x05\x06" or end[20:22] != b"\x00\x00":
        _refuse(path, "bytes behind the zip's directory")
    directory_end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        directory_end = size - 98
        record = tail[:56]
        wide = struct.unpack("<QQQQ", record[24:56])
        saturated = (min(wide[0], 0xFFFF), min(wide[1], 0xFFFF), min(wide[2], 0xFFFFFFFF), min(wide[3], 0xFFFFFFFF))
        located = struct.unpack("<Q", tail[-34:-26])[0] == directory_end and record[:4] == b"PK\x06\x06"
        if not located or saturated != (here, total, directory_size, directory_offset):
            _refuse(path, "two directories that differ")
        here, total, directory_size, directory_offset = wide
    if directory_offset + directory_size != directory_end or not here == total == count:
        _refuse(path, "a zip directory that is not where it says")
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        _refuse(path, "bytes before the first entry")


def _check_entry(path: Path, info: zipfile.ZipInfo, root: str) -> None:
    name = info.filename
    parts = name.split("/")
    if parts[0] != root or len(parts) < 2 or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        known = next((why for pattern, why in _REFUSED if pattern.fullmatch(name)), "a name outside of its root folder")
        _refuse(path, f"the entry {name!r}: {known}")
    if info.orig_filename != name:
        _refuse(path, f"the entry {name!r}: a name with a second reading")
    if info.flag_bits & 0x1:
        _refuse(path, f"the entry {name!r}: encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        _refuse(path, f"the entry {name!r}: compressed, which torch never writes")
    if stat.S_ISLNK(info.external_attr >> 16):
        _refuse(path, f"the entry {name!r}: a symbolic link")


def _check_kinds(path: Path, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> None:
    for name, info in entries.items():
        if name in _MARKERS:
            _check_size(path, info, MAX_MARKER_BYTES)
        elif name in _JSON:
            _check_size(path, info, MAX_JSON_BYTES)
        elif name == SAMPLE_INPUTS:
            if info.file_size:
                _refuse(path, "sample inputs, which are a pickle; 'whimbrel model import' leaves them out")
        elif not _TENSOR.fullmatch(name):
            known = next((why for pattern, why in _REFUSED if pattern.fullmatch(name)), "no part of a plain network")
            _refuse(path, f"the entry {name!r}: {known}")
    if missing := sorted(_REQUIRED - entries.keys()):
        _refuse(path, f"no entry {missing[0]!r}")
    if archive.read(entries[FORMAT]) != b"pt2" or archive.read(entries[VERSION]) != b"0":
        _refuse(path, "another archive format or version than pt2 0")


def _check_size(path: Path, info: zipfile.ZipInfo, limit: int) -> None:
    if info.file_size > limit:
        _refuse(path, f"the entry {info.filename!r} of {info.file_size} bytes, allowed are {limit}")


def _json(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    document = json.loads(archive.read(info))
    if not isinstance(document, dict):
        _refuse(path, f"no JSON object in {info.filename!r}")
    return document


def _check_payloads(path: Path, config: str, document: dict[str, Any], entries: dict[str, zipfile.ZipInfo]) -> None:
    """Each tensor of a config is raw bytes in an entry of its own folder."""
    payloads = document.get("config")
    if not isinstance(payloads, dict):
        _refuse(path, f"no table of tensors in {config!r}")
    folder = config.rsplit("/", 1)[0]
    for name, payload in payloads.items():
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            _refuse(path, f"the tensor {name!r} in {config!r}: a pickle")
        entry = entries.get(f"{folder}/{payload.get('path_name')}")
        if entry is None or not _TENSOR.fullmatch(f"{folder}/{payload['path_name']}"):
            _refuse(path, f"the tensor {name!r} in {config!r}: no entry {payload.get('path_name')!r}")
        if entry.file_size == 0 and _elements(payload.get("tensor_meta")) != 0:
            _refuse(path, f"the tensor {name!r} in {config!r}: a size without bytes")


def _elements(meta: Any) -> int | None:
    """How many elements a tensor's metadata say it has; None when they do not say it in plain numbers."""
    sizes = meta.get("sizes") if isinstance(meta, dict) else None
    if not isinstance(sizes, list) or not all(isinstance(size, dict) for size in sizes):
        return None
    numbers = [size["as_int"] for size in sizes if isinstance(size.get("as_int"), int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _refuse(path: Path, seen: str) -> NoReturn:
    raise PackageRefused(f"expected a network exported without pickles in {path}, seen {seen}")
