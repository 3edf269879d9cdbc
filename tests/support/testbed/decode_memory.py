"""`python -m testbed.decode_memory SIDE FILE...`: what decoding each file to SIDE pixels holds at most, as JSON lines.

Each file is decoded in a process of its own, forked before anything large was allocated.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from whimbrel.core.package import Preset
from whimbrel.transformers.decode import Limits, open_image, prepare

_LIMITS = Limits(max_bytes=2**31, max_pixels=10**9)


def _kibi(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _measure(path: Path, preset: Preset) -> dict[str, object]:
    content = path.read_bytes()
    before = _kibi("VmRSS")
    opened = open_image(content, preset, _LIMITS)
    granted = opened.memory
    prepare(opened, preset, _LIMITS)
    return {"file": path.name, "granted": granted, "peak": 1024 * (_kibi("VmHWM") - before)}


def main() -> None:
    side = int(sys.argv[1])
    preset = Preset(height=side, width=side)
    small = Path(sys.argv[2])
    prepare(open_image(small.read_bytes(), preset, _LIMITS), preset, _LIMITS)  # imports the decoders
    for path in sys.argv[3:]:
        child = os.fork()
        if child == 0:
            sys.stdout.write(json.dumps(_measure(Path(path), preset)) + "\n")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, path


if __name__ == "__main__":
    main()
