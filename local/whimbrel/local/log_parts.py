"""Which part of a log is of which run of its process: one file holds all of them, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LogPart:
    """From the byte `start` to before `end`; None: to the end of the file, which may still grow."""

    path: Path
    start: int = 0
    end: int | None = None
