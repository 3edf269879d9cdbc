"""What this machine measured of a package's lower precision, kept beside the package cache for the next start.

A record is nobody's promise: it is believed only where nobody but the user of this process can have written it. What
the registry attests needs none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from whimbrel.core.attestations import Agreement
from whimbrel.core.hardware import Target

FOLDER = "agreements"
MAX_RECORDS = 1000
_MAX_BYTES = 4096

logger = logging.getLogger(__name__)


def read(cache: Path, digest: str, target: Target, dtype: str) -> Agreement | None:
    """The record of the package `digest` on hardware of this class and with this torch; None where none is sound."""
    path = _path(cache, digest, target, dtype)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not (_is_ours(path.parent.lstat()) and _is_ours(os.fstat(file.fileno()))):
            logger.warning("passed over %s, which others may write", path)
            return None
        try:
            found = Agreement.model_validate_json(file.read(_MAX_BYTES))
        except ValidationError:
            return None
    same = (found.hardware_class, found.torch, found.dtype) == (target.hardware_class, target.torch, dtype)
    return found if same else None


def write(cache: Path, digest: str, target: Target, measured: Agreement) -> None:
    """Keep it. A cache that takes no writes costs the next start the measurement, and nothing else."""
    path = _path(cache, digest, target, measured.dtype)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)  # 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(measured.model_dump_json())
        Path(name).replace(path)
        _forget_the_oldest(path.parent)
    except OSError as error:
        logger.warning("the agreement that was measured is not kept: %s", error)


def _path(cache: Path, digest: str, target: Target, dtype: str) -> Path:
    key = "\n".join((digest, target.hardware_class, target.torch, dtype))
    return cache / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _forget_the_oldest(folder: Path) -> None:
    found = list(folder.glob("*.json"))
    if len(found) <= MAX_RECORDS:
        return
    for path in sorted(found, key=_written)[: len(found) - MAX_RECORDS]:
        path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
