"""The first batches of a network: what does not compute fails here, and how long each size takes is learned."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from whimbrel.core.errors import ModelFailed, WhimbrelError
from whimbrel.predictors import batch_policy
from whimbrel.predictors.batcher import Batcher
from whimbrel.predictors.network import Description
from whimbrel.predictors.settings import PredictorSettings

PAUSE = 3  # beside another version: a quarter of the device for the warm-up, the rest for the requests


async def warm_up(
    batcher: Batcher, description: Description, settings: PredictorSettings, *, beside_another: bool = False
) -> None:
    """One image first, its time not counted; then each doubling that pays, for `warm_up_seconds`.

    With a fixed size, that size. Raises ModelFailed for a network that does not compute, Unavailable for a device.
    """
    started, limits = time.monotonic(), settings.batch_limits

    async def compute(size: int, *, count: bool = True) -> None:
        began = time.monotonic()
        await _compute(batcher, description, size, settings.top_k, count=count)
        if beside_another:
            await asyncio.sleep(PAUSE * (time.monotonic() - began))

    await compute(1, count=False)
    if not limits.adaptive:
        await compute(limits.max_batch_size)
        return
    size = 1
    while time.monotonic() - started < settings.warm_up_seconds:
        await compute(size, count=size == 1)
        if size > 1:  # the first batch of a size also plans and allocates
            await compute(size)
        if not batch_policy.grows(batcher.times, limits):
            return
        size = min(2 * size, limits.max_batch_size)


async def _compute(batcher: Batcher, description: Description, size: int, top_k: int, *, count: bool) -> None:
    preset = description.preset
    try:
        await batcher.measure(np.zeros((size, preset.height, preset.width, 3), np.uint8), top_k, count=count)
    except WhimbrelError:
        raise
    except Exception as error:
        raise ModelFailed(f"expected the model {description.digest} to compute a batch of {size}; {error}") from error
