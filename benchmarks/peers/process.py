"""A peer as a process on loopback that has answered, and ends with all that it started."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from clients import Form, answer_of
from peers.catalog import Peer

from whimbrel.local.state import free_port

START_SECONDS, END_SECONDS = 180.0, 15.0
_PORTS = ("PEER_PORT", "PEER_SECOND_PORT", "PEER_THIRD_PORT", "PEER_FOURTH_PORT", "PEER_FIFTH_PORT")
_BENCHMARKS = Path(__file__).parents[1]


class NotStarted(Exception):
    """One line: why a peer does not answer."""


@contextmanager
def serving(peer: Peer, package: Path, threads: int, form: Form) -> Iterator[int]:
    """The port of a peer that serves the model package and has answered. Raises NotInstalled and NotStarted."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    given = {name: str(number) for name, number in ports.items()} | peer.environment
    given |= {"PEER_PACKAGE": str(package), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(_BENCHMARKS)}
    command = [str(peer.python()), *peer.arguments]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        process = subprocess.Popen(command, env=os.environ | given, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for_an_answer(process, form, ports["PEER_PORT"], Path(log.name))
            yield ports["PEER_PORT"]
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for it and all that it started, then SIGKILL for whatever is left."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, left = psutil.wait_procs(family, timeout=END_SECONDS)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(END_SECONDS)


def free_ports(count: int) -> list[int]:
    """Of loopback, all different."""
    found = set[int]()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def _wait_for_an_answer(process: subprocess.Popen[bytes], form: Form, port: int, log: Path) -> None:
    started = time.perf_counter()
    while answer_of(form, port) is None:
        if process.poll() is not None:
            raise NotStarted(f"not started: ended with status {process.returncode}: {_last_line(log)}")
        if time.perf_counter() - started > START_SECONDS:
            raise NotStarted(f"not started: no answer within {START_SECONDS:g} s: {_last_line(log)}")
        time.sleep(0.1)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing said"
