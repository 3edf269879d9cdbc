"""Runs hey: argument lists, never a shell; bounded in time; killed with its whole process group."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.core.logs import redact
from whimbrel.loadtest.bodies import Body
from whimbrel.loadtest.plan import HeyRun
from whimbrel.loadtest.targets import Target

HOW_TO_GET_HEY = (
    "expected the load generator hey in PATH, seen none; get it with 'apt install hey' (Debian, Ubuntu), "
    "'brew install hey' (macOS) or 'go install github.com/rakyll/hey@latest'"
)
STOP_GRACE_SECONDS = 5.0

_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what hey's own pattern takes, which is less than HTTP allows


@dataclass(frozen=True, slots=True)
class Request:
    """Every request's form. Without bodies it has none; with several, each is one hey process at a time."""

    target: Target
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bodies: tuple[Body, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise SettingsError(f"expected one of {', '.join(_METHODS)} as method, seen {self.method!r}")
        for headers in (self.headers, *(body.headers for body in self.bodies)):
            for name, value in headers.items():
                check_header(name, value)


@dataclass(frozen=True, slots=True)
class Finished:
    """One hey process that ended. `cut` when it was stopped before it had sent everything."""

    csv: str
    cut: bool


def find_hey() -> str:
    """The path of hey; raises SettingsError with how to get it."""
    found = shutil.which("hey")
    if found is None:
        raise SettingsError(HOW_TO_GET_HEY)
    return found


def check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or not value.strip() or re.search(r"[\r\n\x00]", value):
        raise SettingsError(f"expected a header 'Name: value' on one line, seen the name {name!r}")
    if name.lower() == "host":
        raise SettingsError("expected the Host header by --host, seen it among the headers")


def arguments(hey: str, request: Request, run: HeyRun, body_file: Path | None, timeout_seconds: int) -> list[str]:
    """hey's command line. Redirects are not followed: a 302 is an answer that is no success."""
    command = [hey, "-o", "csv", "-disable-redirects", "-m", request.method]
    command += ["-n", str(run.requests), "-c", str(run.workers), "-t", str(timeout_seconds)]
    if run.rate_per_worker is not None:
        command += ["-q", f"{run.rate_per_worker:.9f}"]
    if request.target.host is not None:
        command += ["-host", request.target.host]
    headers = dict(request.headers)
    if body_file is not None:
        body = request.bodies[run.body]
        headers = {**headers, **body.headers}
        command += ["-T", body.content_type, "-D", str(body_file)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    return [*command, request.target.url]


def run_together(
    commands: Sequence[Sequence[str]], outputs: Path, *, seconds: float, timeout_seconds: int
) -> list[Finished]:
    """Run every command at once and wait for all, `seconds` at most.

    Then hey is interrupted: it sends nothing more, waits for what is under way (`timeout_seconds` each) and writes
    its rows; what still runs after that is killed, and its rows are lost. Raises Unavailable when hey fails.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as started:
        running = [
            _start(started, command, outputs / f"{index}.csv", outputs / f"{index}.err")
            for index, command in enumerate(commands)
        ]
        cut = [not _ended(process, deadline) for process in running]
        for process, late in zip(running, cut, strict=True):
            if late:
                _signal(process, signal.SIGINT)
        last = time.monotonic() + timeout_seconds + STOP_GRACE_SECONDS
        for process, late in zip(running, cut, strict=True):
            if late and not _ended(process, last):
                _signal(process, signal.SIGKILL)
                process.wait()
    return [
        _finished(process, late, outputs / f"{index}.csv", outputs / f"{index}.err")
        for index, (process, late) in enumerate(zip(running, cut, strict=True))
    ]


def _start(started: ExitStack, command: Sequence[str], output: Path, errors: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
    # Whatever ends us, Ctrl-C included, ends the load too.
    started.callback(_kill, process)
    return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal(process, signal.SIGKILL)
        process.wait()


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


def _finished(process: subprocess.Popen[bytes], cut: bool, output: Path, errors: Path) -> Finished:
    if process.returncode != 0 and not cut:
        said = errors.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise Unavailable(f"expected hey to run, seen exit status {process.returncode}: {redact(said[0])[:200]}")
    return Finished(output.read_text(errors="replace") if process.returncode == 0 else "", cut)
