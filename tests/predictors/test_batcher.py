"""Batches across requests: whole, bounded, each request with its own answer or its own error."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from testbed.predictors import null_images
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.tensors import INDICES
from whimbrel.predictors.batcher import Batcher, BatchLimits, batching
from whimbrel.predictors.network import Images, Outputs
from whimbrel.predictors.null_network import NullNetwork

POISON = 255
SECONDS = 20


class RecordingNetwork:
    """The null network, with a gate before each batch, a note of its size, and an image that it cannot bear."""

    def __init__(self) -> None:
        self._network = NullNetwork(100)
        self.description = self._network.description
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []

    def infer(self, images: Images, top_k: int) -> Outputs:
        self.started.release()
        assert self.gate.wait(SECONDS)
        self.sizes.append(len(images))
        if (images[:, 0, 0, 0] == POISON).any():
            raise InputRefused("poison")
        return self._network.infer(images, top_k)

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=SECONDS)


def limits(*, batch: int = 4, delay: float = 0.0, queue: int = 100) -> BatchLimits:
    return BatchLimits(batch, delay, queue)


def firsts(outputs: Outputs) -> list[int]:
    indices: list[int] = outputs[INDICES][:, 0].tolist()
    return indices


async def held(batcher: Batcher, network: RecordingNetwork) -> asyncio.Task[Outputs]:
    """A request that is being computed until the gate opens."""
    network.gate.clear()
    task = asyncio.create_task(batcher.infer(null_images(0), 1))
    await network.has_started()
    return task


def queued(batcher: Batcher, *indices: int) -> asyncio.Task[Outputs]:
    return asyncio.create_task(batcher.infer(null_images(*indices), 1))


@pytest.mark.anyio
async def test_requests_that_wait_together_are_computed_together() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(), model_name="m") as batcher:
        first = await held(batcher, network)
        others = [queued(batcher, 1), queued(batcher, 2, 3), queued(batcher, 4), queued(batcher, 5)]
        await asyncio.sleep(0)
        network.gate.set()

        assert [firsts(answer) for answer in await asyncio.gather(first, *others)] == [[0], [1], [2, 3], [4], [5]]
    assert network.sizes == [1, 4, 1]


@pytest.mark.anyio
async def test_a_batch_waits_for_others_until_it_is_full() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(delay=SECONDS), model_name="m") as batcher:
        tasks = [queued(batcher, index) for index in range(4)]

        assert [firsts(answer) for answer in await asyncio.gather(*tasks)] == [[0], [1], [2], [3]]
    assert network.sizes == [4]


@pytest.mark.anyio
async def test_a_lone_request_leaves_when_its_delay_is_over() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(delay=0.001), model_name="m") as batcher:
        assert firsts(await batcher.infer(null_images(7), 1)) == [7]


@pytest.mark.anyio
async def test_a_request_larger_than_a_batch_is_split_and_joined() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(), model_name="m") as batcher:
        assert firsts(await batcher.infer(null_images(*range(11)), 1)) == list(range(11))
    assert network.sizes == [4, 4, 3]


@pytest.mark.anyio
async def test_a_poisoned_request_fails_alone() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(), model_name="m") as batcher:
        first = await held(batcher, network)
        good, poisoned, also_good = queued(batcher, 1), queued(batcher, POISON), queued(batcher, 2, 3)
        await asyncio.sleep(0)
        network.gate.set()

        assert firsts(await good) == [1]
        assert firsts(await also_good) == [2, 3]
        with pytest.raises(InputRefused, match="poison"):
            await poisoned
        await first
    assert network.sizes == [1, 4, 1, 1, 2]


@pytest.mark.anyio
async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(queue=5), model_name="m") as batcher:
        first = await held(batcher, network)
        waiting = queued(batcher, 1, 2, 3)
        await asyncio.sleep(0)

        with pytest.raises(Unavailable, match="seen 3 waiting") as refused:
            await batcher.infer(null_images(4, 5, 6), 1)

        assert refused.value.headers() == {"retry-after": "1"}
        network.gate.set()
        assert firsts(await waiting) == [1, 2, 3]
        await first


@pytest.mark.anyio
async def test_what_nobody_waits_for_is_not_computed_and_frees_its_room() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(queue=4), model_name="m") as batcher:
        first = await held(batcher, network)
        gone = queued(batcher, 1, 2, 3, 4)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        waiting = queued(batcher, 5, 6)
        await asyncio.sleep(0)
        network.gate.set()

        assert firsts(await waiting) == [5, 6]
        await first
    assert gone.cancelled()
    assert network.sizes == [1, 2]


@pytest.mark.anyio
async def test_closing_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(delay=SECONDS), model_name="m") as batcher:
        accepted = [queued(batcher, index) for index in range(3)]
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await batcher.infer(null_images(1), 1)

    assert [firsts(answer) for answer in await asyncio.gather(*accepted)] == [[0], [1], [2]]


@pytest.mark.anyio
async def test_a_request_gets_at_least_the_labels_that_it_asked_for() -> None:
    network = RecordingNetwork()
    async with batching(network, limits(), model_name="m") as batcher:
        few, many = await asyncio.gather(batcher.infer(null_images(1), 2), batcher.infer(null_images(2), 7))

    assert few[INDICES].shape[1] >= 2
    assert np.array_equal(many[INDICES], [[2, 3, 4, 5, 6, 7, 8]])
