"""`make bench-predictor`: the predictor against a bare loop and against its peers, swaps under load, start, queueing.

Each section measures by itself, prints its table and rewrites its own part of benchmarks/README.md, so that one can be
run alone and none is lost when a later one fails: `make bench-predictor SECTIONS=peers,swaps`. `BENCH_SECONDS=0.5`
makes every measurement short, to try it.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from predictor import jpeg, peers, precision, queueing, start, swaps, throughput
from predictor.measured import Setting, setting_in
from report import write_section

Section = Callable[[Setting], list[str]]

SECTIONS: dict[str, Section] = {
    "throughput": throughput.section,
    "peers": peers.section,
    "jpeg": jpeg.section,
    "precision": precision.section,
    "swaps": swaps.section,
    "start": start.section,
    "queueing": queueing.section,
}


def main() -> int:
    """1: a section failed, and its part of the report is the one of the last run."""
    names = [name for name in os.environ.get("SECTIONS", "").split(",") if name] or list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"SECTIONS: expected some of {', '.join(SECTIONS)}, seen {', '.join(unknown)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_in(Path(folder))
        failed = [name for name in names if not _written(name, setting)]
    return 1 if failed else 0


def _written(name: str, setting: Setting) -> bool:
    began = time.monotonic()
    try:
        lines = SECTIONS[name](setting)
    except Exception:
        traceback.print_exc()
        print(f"{name}: failed after {time.monotonic() - began:.0f} s; its part of README.md is as it was", flush=True)
        return False
    print(f"\n{name}, {time.monotonic() - began:.0f} s", *lines, sep="\n", flush=True)
    write_section(
        f"<!-- predictor {name}: written by `make bench-predictor` -->", f"<!-- /predictor {name} -->", "\n".join(lines)
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
