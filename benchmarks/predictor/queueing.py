"""What queueing and batching cost a request while more and more of them wait: processor time, without a server."""

from __future__ import annotations

import asyncio
import statistics
import time

import numpy as np
from predictor.measured import Setting
from report import machine

from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.batcher import batching, device_threads
from whimbrel.predictors.null_network import NullNetwork

WAITING = (10, 100, 1000)


def section(_: Setting) -> list[str]:
    costs = [asyncio.run(_microseconds_a_request(waiting)) for waiting in WAITING]
    return [
        f"{machine()[:-1]}; the event loop and its threads, a network that takes no time.",
        "",
        f"| Requests that wait at once | {' | '.join(map(str, WAITING))} |",
        f"|---|{'---|' * len(WAITING)}",
        f"| µs of queueing and batching a request | {' | '.join(f'{each:.0f}' for each in costs)} |",
    ]


async def _microseconds_a_request(waiting: int) -> float:
    """In batches of 8."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    with device_threads() as threads:
        limits = BatchLimits(8, 0.0, 10_000)
        async with batching(NullNetwork(10), limits, threads, model_name="m", version="1") as batcher:
            times = []
            for _ in range(max(3, 3000 // waiting)):
                began = time.process_time()
                await asyncio.gather(*(batcher.infer(image, 1) for _ in range(waiting)))
                times.append(time.process_time() - began)
    return 1_000_000 * statistics.median(times) / waiting
