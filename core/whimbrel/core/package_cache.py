"""The model packages on this machine: a folder each, held by whoever uses it, and a bound on what nobody uses.

    <hex>/            a whole, verified package
    <hex>.use         locked, shared, by each that uses the package; alone by the one that removes it
    <hex>.lock        locked by the one that downloads it
    <hex>.*.partial   on its way in or out; of no use to anybody once its package is not held

The locks are flock's: the kernel releases them when their process ends, however it ends. So nothing here has to be
tidied up after a kill: what it left is removed by the next one that looks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from whimbrel.core.errors import Unavailable

PARTIAL = ".partial"
_USE, _LOCK = ".use", ".lock"
_PACKAGE = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


class Hold:
    """While it is not released, nobody removes the package."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def release(self) -> None:
        if not self._file.closed:
            os.utime(self._file.fileno())  # it was used until now
            self._file.close()


def hold(folder: Path) -> Hold:
    """Hold the package that is or will be in `folder`. Raises Unavailable while it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(_beside(folder, _USE), fcntl.LOCK_SH)
    if file is None:
        raise Unavailable(f"another process removes {folder.name} now", retry_after_seconds=1)
    os.utime(file.fileno())
    return Hold(file)


@contextmanager
def downloading(folder: Path) -> Iterator[None]:
    """Only one process downloads one package into one cache. Raises Unavailable where another one does."""
    file = _locked(_beside(folder, _LOCK), fcntl.LOCK_EX)
    if file is None:
        raise Unavailable(f"another process downloads {folder.name} now", retry_after_seconds=1)
    with file:
        remove_partials(folder)
        yield


def partial_folder(folder: Path) -> Path:
    """A new folder beside `folder`, for what becomes it or was it."""
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=PARTIAL, dir=folder.parent))


def remove_partials(folder: Path) -> None:
    for left in folder.parent.glob(f"{folder.name}.*{PARTIAL}"):
        shutil.rmtree(left)


def put_away(folder: Path) -> None:
    """Remove what lies in `folder`: never half of it, whenever this is killed."""
    away = partial_folder(folder)
    folder.rename(away)
    shutil.rmtree(away)


def shrink(cache: Path, max_bytes: int) -> None:
    """Remove packages that nobody holds, first what was used longest ago, until all together take `max_bytes`.

    What is held stays, however much it takes. Raises OSError.
    """
    sizes = {folder: _size(folder) for folder in _packages(cache)}
    total = sum(sizes.values())
    for folder in sorted(sizes, key=_last_used):
        if total > max_bytes and _remove_unused(folder):
            total -= sizes[folder]
            logger.info("removed a package that nobody uses", extra={"folder": str(folder), "bytes": sizes[folder]})
    for name in {partial.name.split(".")[0] for partial in cache.glob(f"*{PARTIAL}")}:
        if not (cache / name).is_dir():
            _remove_unused(cache / name)


def _packages(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*") if _PACKAGE.fullmatch(path.name) and path.is_dir()]


def _remove_unused(folder: Path) -> bool:
    use = _beside(folder, _USE)
    file = _locked(use, fcntl.LOCK_EX)
    if file is None:
        return False
    with file:
        if folder.is_dir():
            put_away(folder)
        remove_partials(folder)
        _beside(folder, _LOCK).unlink(missing_ok=True)  # a downloader holds the package, so there is none
        use.unlink()
    return True


def _locked(path: Path, operation: int) -> IO[str] | None:
    """The file, locked; None where another one's lock is in the way, or the file was removed meanwhile."""
    file = path.open("a")
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _last_used(folder: Path) -> float:
    """0 where another process has just removed it."""
    for path in (_beside(folder, _USE), folder):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    """As far as another process has not just removed it."""
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.rglob("*"):
            total += path.stat().st_size if path.is_file() else 0
    return total
