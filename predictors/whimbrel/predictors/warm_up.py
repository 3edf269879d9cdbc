"""The first batches of a network: what does not compute fails here, and how long each size takes is learned."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from whimbrel.core.errors import ModelFailed, WhimbrelError
from whimbrel.predictors import batch_policy
from whimbrel.predictors.batch_policy import BatchLimits, BatchTimes
from whimbrel.predictors.batcher import Batcher
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.tasks.task import Task

PAUSE = 3  # beside another version: a quarter of the device for the warm-up, the rest for the requests
LONGEST_SECONDS = 0.05  # beside another version: how long a batch may hold up its requests, one image alone excepted


async def warm_up(
    batcher: Batcher, task: Task, settings: PredictorSettings, *, beside: BatchTimes | None = None
) -> None:
    """One image first, its time not counted; then each doubling that pays, for `warm_up_seconds`.

    With a fixed size, that size. `beside`: the times of the version that answers meanwhile; they stand for those of
    the batches that would hold it up. Raises ModelFailed for a network that does not compute, Unavailable for a device.
    """
    limits, left = settings.batch_limits, settings.warm_up_seconds

    async def compute(size: int, *, count: bool = True) -> None:
        nonlocal left
        began = time.monotonic()
        await _compute(batcher, task, size, settings.top_k, count=count)
        seconds = time.monotonic() - began
        left -= seconds
        if beside is not None:
            await asyncio.sleep(PAUSE * seconds)

    await compute(1, count=False)
    if not limits.adaptive:
        await compute(limits.max_batch_size)
        return
    if left > 0 or beside is not None:
        await compute(1)
    if beside is not None:
        batcher.times.adopt(beside)
    size, following = 1, min(2, limits.max_batch_size)
    while left > 0 and size < following and is_wanted(batcher.times, limits, following, beside):
        await compute(following, count=False)  # the first batch of a size also plans and allocates
        await compute(following)
        size, following = following, min(2 * following, limits.max_batch_size)


def is_wanted(times: BatchTimes, limits: BatchLimits, size: int, beside: BatchTimes | None) -> bool:
    """Whether a batch of `size` is worth a measurement."""
    if beside is None:
        return batch_policy.grows(times, limits)
    return size <= batch_policy.batch_size(times, limits) and times.seconds(size) <= LONGEST_SECONDS


async def _compute(batcher: Batcher, task: Task, size: int, top_k: int | None, *, count: bool) -> None:
    preset, most = task.description.preset, top_k or task.default_top_k
    try:
        await batcher.measure(np.zeros((size, preset.height, preset.width, 3), np.uint8), most, count=count)
    except WhimbrelError:
        raise
    except Exception as error:
        raise ModelFailed(
            f"expected the model {task.description.digest} to compute a batch of {size}; {error}"
        ) from error
