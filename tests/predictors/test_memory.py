"""Memory that a layer freed stays for the next one, until it is given back."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import ctypes, json, resource, threading
from pathlib import Path
from whimbrel.predictors import memory

memory.keep_for_the_next_batch()
library, size = ctypes.CDLL(None), 48 << 20
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes, library.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def batch():
    block = library.malloc(size)
    library.memset(block, 1, size)
    library.free(block)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def batches(seen):
    batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        batch()
    seen["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

seen = {"pages": size // resource.getpagesize()}
thread = threading.Thread(target=batches, args=(seen,))
thread.start()
thread.join()
before = resident()
memory.give_back()
seen["given_back"] = before - resident()
print(json.dumps(seen))
"""
GLIBC = platform.libc_ver()
NO_SUCH_GLIBC = "glibc takes a threshold for mmap above 32 MiB from 2.35 on; elsewhere memory goes as it does by itself"


def seen_with_kept_memory() -> dict[str, Any]:
    """Of five times as much memory as a large layer takes, used and freed in a thread: faults, and what goes back."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    seen: dict[str, Any] = json.loads(ended.stdout)
    return seen


@pytest.mark.skipif(
    GLIBC[0] != "glibc" or tuple(map(int, GLIBC[1].split("."))) < (2, 35), reason=f"{NO_SUCH_GLIBC}: {GLIBC}"
)
def test_what_a_layer_freed_is_there_for_the_next_until_it_is_given_back() -> None:
    kept = seen_with_kept_memory()

    assert kept["faults"] < kept["pages"]
    assert kept["given_back"] > 40 << 20
