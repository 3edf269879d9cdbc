"""A thread for each call that loads or unloads: it ends with the call, and with it what torch keeps for a thread.

Of every thread that ever ran a parallel loop, OpenMP keeps the threads that helped it. Once those of a process are more
than its cores, none of them waits for the next loop awake any more: they sleep between any two layers, for as long as
the process lives, and one image takes half as long again (ResNet-18 on 2 cores: 15 ms, then 22 to 28 ms). So only the
thread that computes may live on (GCC's libgomp: `gomp_managed_threads` against `gomp_available_cpus`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_NICENESS = 10

Returned = TypeVar("Returned")


async def in_its_own(call: Callable[..., Returned], *arguments: Any, behind_others: bool) -> Returned:
    """`call(*arguments)` in a new thread. `behind_others`: only with the processor time that requests leave."""
    executor = ThreadPoolExecutor(1, "load", initializer=_behind_the_others if behind_others else None)
    called = asyncio.get_running_loop().run_in_executor(executor, call, *arguments)
    executor.shutdown(wait=False)
    return await called


def _behind_the_others() -> None:
    """Linux has a niceness for each thread, which nobody can take back; elsewhere it would be the whole process's."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
