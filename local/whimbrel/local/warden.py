"""Outlives a killed engine just long enough to end the engine's processes.

Reads `+PID` and `-PID` lines (a process group began, ended) from the pipe on stdin. The pipe closes when the engine
ends, however it ends; the groups that are left then get SIGTERM, and SIGKILL after the grace.
"""

from __future__ import annotations

import signal
import sys

from whimbrel.local.groups import end_all, start_time


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its end is the pipe's
    groups: dict[int, str] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            if started := start_time(pid):
                groups[pid] = started
        else:
            groups.pop(pid, None)
    end_all(groups, grace_seconds=float(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
