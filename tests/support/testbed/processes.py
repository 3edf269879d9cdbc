"""Processes of ours and of others, started for a test and always ended by their own id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], what: str, seconds: float = 60.0) -> Found:
    """The first truthy value of `condition`, polled; a failed test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}, last seen {found!r}")
        time.sleep(0.02)
    return found


def answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == status
    except httpx.HTTPError:
        return False


class Running:
    """A child process with its output in a file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path | None = None
    ) -> None:
        self.command, self.environment, self.log, self.folder = list(command), dict(environment), log, folder
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        def met() -> object:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command} ended with {self.process.returncode}:\n{self.output()[-4000:]}")
            return condition()

        wait_for(met, f"{what} of {self.command}", seconds)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_and_restart(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def start(self) -> None:
        """Once more, after it ended."""
        self.process = self._spawn()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, then SIGKILL after `seconds`; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(60)


_SETTINGS = ("WHIMBREL_", "AWS_", "K_", "MLFLOW_")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of ours, of AWS's or of MLflow's (whose client sets some), plus
    `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**kept, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **extra}


@contextmanager
def running(module: str, *arguments: str, log: Path, **extra: str) -> Iterator[Running]:
    """`python -m MODULE ARGUMENTS` for the length of a test."""
    started = Running([sys.executable, "-m", module, *arguments], environment(**extra), log)
    try:
        yield started
    finally:
        started.stop()
