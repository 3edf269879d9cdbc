"""How much memory is free for one more version, what ran out of it, and giving back what a version that left had."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import errno
import functools
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD, _MOST = -8, -3, -1, 2**31 - 1  # of glibc's malloc.h; an int each
_keeping = threading.Lock()
_SHORTAGES = frozenset({errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


class Taken:
    """Bytes that the versions of all models in this process take, by their own account.

    `placing` is held from the look at what is free until a version has answered: of two loads one waits, so that
    none counts on what the other takes.
    """

    def __init__(self) -> None:
        self.placing = asyncio.Lock()
        self.total = 0

    @contextmanager
    def holding(self, needed_bytes: int) -> Iterator[None]:
        self.total += needed_bytes
        try:
            yield
        finally:
            self.total -= needed_bytes


def free_bytes(device: str) -> int:
    """Of the CUDA device that is in use, else of this machine or container, whichever has less."""
    torch = sys.modules.get("torch")
    if torch is not None and device != "cpu" and torch.cuda.is_available():
        asked = None if device == "auto" else device
        free, _ = torch.cuda.mem_get_info(asked)
        cached = torch.cuda.memory_reserved(asked) - torch.cuda.memory_allocated(asked)
        return int(free + cached)
    return min(_machine_free(), _container_free())


def ran_short(error: BaseException | None) -> bool:
    """Whether memory, disk or files ran out, here or below `error`: a later try may find some."""
    while error is not None:
        out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
        on_the_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's, too
        if out_of_memory or on_the_cpu or (isinstance(error, OSError) and error.errno in _SHORTAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep_modules(*, with_torch: bool) -> None:
    """Once each, when the modules that a network needs are imported, and before the first of its kind is built: they
    stay for good, so that no later collection, which holds up every thread, looks at them again. From here on there
    are collections."""
    with _keeping:  # of two models that load at once, none is built before it is done
        _keep_modules(with_torch=with_torch)


@functools.cache
def _keep_modules(*, with_torch: bool) -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
    # Where the interpreter ends as usual, as in the tests, extension modules count at the end what nobody collected.
    atexit.register(gc.unfreeze)


def keep_for_the_next_batch() -> None:
    """At the start, before there are threads: memory that a layer has freed stays, as far as it is heap, for the next.

    By itself glibc gives every thread heaps of 64 MiB, and maps and unmaps what is larger than 32 MiB each time, and a
    page that comes back costs a fault: of ResNet-50 in batches of 32, a third of the time. `give_back` trims the heap.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if allocator is None or not allocator(_MMAP_THRESHOLD, _MOST):
        return  # an older glibc refuses so much, and would then, with the next option, map whatever is above 128 KiB
    allocator(_TRIM_THRESHOLD, _MOST)
    allocator(_ARENA_MAX, 1)


def give_back() -> None:
    """After the last reference to a network is gone: to the device, and to the operating system. Not for the loop."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _machine_free() -> int:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize  # not Linux: nothing to compare with


def _container_free() -> int:
    """Page cache counts as free: the kernel drops it before it refuses memory."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(stat["inactive_file"])
    except (OSError, KeyError, ValueError):
        return sys.maxsize  # no limit, or no cgroup v2
