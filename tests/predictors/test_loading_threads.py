"""What a load starts ends with it, the threads that OpenMP keeps for a thread among them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from testbed.processes import wait_for
from whimbrel.predictors.loading_threads import in_its_own

HELPERS = 2


def helped() -> set[str]:
    """Compute by three threads, the calling one and two that help it; the threads that there are more after it."""
    torch.set_num_threads(1 + HELPERS)  # of the calling thread
    before = threads_of_this_process()
    torch.ones(2_000_000).mul_(2).sum()
    return threads_of_this_process() - before


def threads_of_this_process() -> set[str]:
    return {each.name for each in Path("/proc/self/task").iterdir()}


@pytest.mark.anyio
async def test_the_threads_that_helped_a_load_end_with_it() -> None:
    set_before = torch.get_num_threads()
    try:
        helpers = await in_its_own(helped, behind_others=False)
    finally:
        torch.set_num_threads(set_before)

    assert len(helpers) >= HELPERS
    wait_for(lambda: len(helpers - threads_of_this_process()) >= HELPERS, "the end of the threads that helped")


@pytest.mark.anyio
async def test_what_a_call_raises_is_raised_and_a_cancelled_call_comes_to_its_end() -> None:
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        assert goes_on.wait(60)
        ended.set()
        raise OSError("no room")

    calling = asyncio.create_task(in_its_own(call, behind_others=True))
    await asyncio.to_thread(began.wait, 60)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    goes_on.set()
    assert await asyncio.to_thread(ended.wait, 60)

    with pytest.raises(OSError, match="no room"):
        await in_its_own(call, behind_others=False)
