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
import zipfile
from pathlib import Path
from typing import Any, Final, NoReturn

from whimbrel.core import stored_zip
from whimbrel.core.errors import PackageRefused
from whimbrel.core.pt2_graph import GraphRefused, check_program
from whimbrel.core.stored_zip import ZipRefused

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
            entries = stored_zip.entries(path, file, archive, max_entries=MAX_ENTRIES, known=_known)
            _check_kinds(path, archive, entries)
            for config in (WEIGHTS_CONFIG, CONSTANTS_CONFIG):
                _check_payloads(path, config, _json(path, archive, entries[config]), entries)
            check_program(_json(path, archive, entries[PROGRAM]))
    except (GraphRefused, ZipRefused) as error:
        _refuse(path, str(error))
    except stored_zip.BROKEN as error:
        _refuse(path, f"no readable pt2 archive ({error})")
    except (KeyError, TypeError, AttributeError):
        _refuse(path, "a part that is not of torch's schema 8")
    except (RecursionError, MemoryError):
        _refuse(path, "JSON that is nested too deep")


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
            _refuse(path, f"the entry {name!r}: {_known(name) or 'no part of a plain network'}")
    if missing := sorted(_REQUIRED - entries.keys()):
        _refuse(path, f"no entry {missing[0]!r}")
    if archive.read(entries[FORMAT]) != b"pt2" or archive.read(entries[VERSION]) != b"0":
        _refuse(path, "another archive format or version than pt2 0")


def _known(name: str) -> str | None:
    return next((why for pattern, why in _REFUSED if pattern.fullmatch(name)), None)


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
