"""What every benchmark's report has: the machine, medians with their spread, and its place in README.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

README = Path(__file__).parent / "README.md"


def machine(*packages: str) -> str:
    """The machine that this runs on and the versions that count, as one sentence."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = psutil.virtual_memory().total / 2**30
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name).split('+')[0]}" for name in packages)]
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB; {', '.join(versions)}."


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median (least to most)."""
    least, most = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def write_section(begin: str, end: str, text: str) -> None:
    """Replaces what stands between the two markers in README.md."""
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{text}\n{end}{after}")
