"""Process groups by the id and start time of their first process, so that a reused id is never taken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_POLL_SECONDS = 0.05


def start_time(pid: int) -> str | None:
    """When the process with this id started, in the system's own unit; None when there is none (or a zombie)."""
    if not sys.platform.startswith("linux"):
        return _start_time_by_ps(pid)
    try:
        # The command's name may hold spaces and brackets; the fields follow the last one. See proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def is_ours(pid: int, started: str) -> bool:
    """Whether the group of `pid` is the one that began with `started`.

    A group may outlive its first process; as long as one member lives, no other process gets its id.
    """
    seen = start_time(pid)
    return _has_members(pid) if seen is None else seen == started


def end_all(groups: Mapping[int, str], grace_seconds: float) -> list[int]:
    """SIGTERM to every group that is ours, SIGKILL to what is left after `grace_seconds`; the ids that were ended."""
    ours = {pid: started for pid, started in groups.items() if is_ours(pid, started)}
    for pid in ours:
        signal_group(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (left := [pid for pid, started in ours.items() if is_ours(pid, started)]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for pid in left:
        signal_group(pid, signal.SIGKILL)
    return list(ours)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to every process of the group; nothing happens when none is left."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return


def _has_members(pid: int) -> bool:
    if sys.platform.startswith("linux"):
        return any(_group_of(entry) == pid for entry in Path("/proc").iterdir() if entry.name.isdigit())
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _group_of(entry: Path) -> int | None:
    """The group of a process that is not a zombie."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[2])


def _start_time_by_ps(pid: int) -> str | None:
    found = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, started = found.stdout.strip().partition(" ")
    return started.strip() if started and not status.startswith("Z") else None
