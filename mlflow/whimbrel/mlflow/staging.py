"""A package's folder appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whimbrel.core.errors import InputRefused
from whimbrel.core.package import MANIFEST


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder to write a package in, which becomes `folder` at the end, in place of an older package there.

    Raises InputRefused when `folder` holds something else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))):
        raise InputRefused(
            f"expected a new folder for the model package, seen {folder} with other content; name another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
