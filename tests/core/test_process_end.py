"""A program of ours ends with its status and all that it said, and searches its memory for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from testbed.processes import environment

PROGRAM = """
import atexit, gc, sys
from whimbrel.core.process_end import run_program

class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

def main():
    gc.collect()  # else the count of what was made before may have it collected here
    Garbage()
    atexit.register(print, "registered")
    print("done")
    {end}

run_program(main)
"""


def ended(end: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command, buffered = [sys.executable, "-c", PROGRAM.format(end=end)], environment(PYTHONUNBUFFERED="")
    return subprocess.run(
        command, env=buffered, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no such model')", 1, "no such model\n"),
    ],
)
def test_it_ends_with_its_status_and_no_search_for_garbage(end: str, status: int, said: str) -> None:
    done = ended(end)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\nregistered\n", said)


def test_an_exception_is_told_and_is_status_1() -> None:
    done = ended("raise ValueError('a fault')")
    assert (done.returncode, done.stdout) == (1, "done\nregistered\n")
    assert done.stderr.endswith("ValueError: a fault\n")


@pytest.mark.parametrize("end", ["sys.stdout.close()", "sys.stdout = None"])
def test_an_output_that_is_gone_is_no_fault(end: str) -> None:
    done = ended(f"atexit.unregister(print); sys.stdout.flush(); {end}; return 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(("end", "status"), [("return 0", 120), ("return 3", 3)])
def test_what_could_not_be_written_is_no_success(end: str, status: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(end, stdout=full)
    assert (done.returncode, done.stderr) == (status, "")
