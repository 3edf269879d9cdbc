"""A program of ours ends with its status and all that it said, and searches its memory for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testbed.processes import environment

PROGRAM = """
import atexit, sys
from whimbrel.core.process_end import run_program

class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

def main():
    Garbage()
    atexit.register(print, "registered")
    print("done")
    {end}

run_program(main)
"""


def ended(end: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


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
