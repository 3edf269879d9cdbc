"""What of this machine's environment every program needs; all else of a process's environment is declared."""

from __future__ import annotations

import os

_FROM_THIS_MACHINE = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
# What the images set: nothing of the folder that a process starts in may shadow a real package.
_FROM_THE_IMAGE = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def machine_environment() -> dict[str, str]:
    """What every process gets beside its declared environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _FROM_THIS_MACHINE or name.startswith(("LC_", "OTEL_"))
    }
    return kept | _FROM_THE_IMAGE
