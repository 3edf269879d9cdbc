"""Batches across requests: whole, bounded, each request with its own answer or its own error."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from testbed.predictors import null_images
from testbed.processes import wait_for
from whimbrel.core.errors import DeadlinePassed, InputRefused, ModelFailed, Unavailable
from whimbrel.core.tensors import INDICES
from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.batcher import Batcher, batching, device_threads
from whimbrel.predictors.network import Images, Outputs
from whimbrel.predictors.null_network import NullNetwork
from whimbrel.predictors.turns import Turns

POISON = 255
SECONDS = 20


class RecordingNetwork:
    """The null network, with a gate before each batch, a note of its size, and an image that it cannot bear."""

    def __init__(self) -> None:
        self._network = NullNetwork(100)
        self.description, self.task = self._network.description, self._network.task
        self.computing = self._network.computing
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.staged: list[int] = []
        self.second_staged = threading.Event()
        self.poison: Exception = InputRefused("poison")
        self.lost, self.largest = False, 1_000_000

    def stage(self, parts: Sequence[Images]) -> Images:
        self.staged.append(sum(len(part) for part in parts))
        if len(self.staged) > 1:
            self.second_staged.set()
        return self._network.stage(parts)

    def infer(self, images: Images, top_k: int) -> Outputs:
        self.started.release()
        assert self.gate.wait(SECONDS)
        self.sizes.append(len(images))
        if len(images) > self.largest:
            raise MemoryError
        if (images[:, 0, 0, 0] == POISON).any():
            raise self.poison
        return self._network.infer(images, top_k)

    def device_computes(self) -> bool:
        return not self.lost

    def close(self) -> None:
        self._network.close()

    async def has_staged(self) -> None:
        assert await asyncio.to_thread(self.second_staged.wait, SECONDS)

    async def has_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=SECONDS)


def limits(*, batch: int = 4, delay: float = 0.0, queue: int = 100) -> BatchLimits:
    return BatchLimits(batch, delay, queue)


@asynccontextmanager
async def serving(network: RecordingNetwork, limits: BatchLimits) -> AsyncIterator[Batcher]:
    with device_threads() as threads:
        async with batching(network, limits, threads, model_name="m", version="1") as batcher:
            yield batcher


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
    async with serving(network, limits()) as batcher:
        first = await held(batcher, network)
        others = [queued(batcher, 1), queued(batcher, 2, 3), queued(batcher, 4), queued(batcher, 5)]
        await asyncio.sleep(0)
        network.gate.set()

        assert [firsts(answer) for answer in await asyncio.gather(first, *others)] == [[0], [1], [2, 3], [4], [5]]
    assert network.sizes == [1, 4, 1]


@pytest.mark.anyio
async def test_a_batch_waits_for_others_until_it_is_full() -> None:
    network = RecordingNetwork()
    async with serving(network, limits(delay=SECONDS)) as batcher:
        tasks = [queued(batcher, index) for index in range(4)]

        assert [firsts(answer) for answer in await asyncio.gather(*tasks)] == [[0], [1], [2], [3]]
    assert network.sizes == [4]


@pytest.mark.anyio
async def test_a_lone_request_leaves_when_its_delay_is_over() -> None:
    network = RecordingNetwork()
    async with serving(network, limits(delay=0.001)) as batcher:
        assert firsts(await batcher.infer(null_images(7), 1)) == [7]


@pytest.mark.anyio
async def test_a_request_larger_than_a_batch_is_split_and_joined() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        assert firsts(await batcher.infer(null_images(*range(11)), 1)) == list(range(11))
    assert network.sizes == [4, 4, 3]


@pytest.mark.anyio
async def test_a_poisoned_request_fails_alone() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        first = await held(batcher, network)
        good, poisoned, also_good = queued(batcher, 1), queued(batcher, POISON), queued(batcher, 2, 3)
        await asyncio.sleep(0)
        network.gate.set()

        assert firsts(await good) == [1]
        assert firsts(await also_good) == [2, 3]
        with pytest.raises(InputRefused, match="poison"):
            await poisoned
        await first
    assert network.sizes == [1, 4, 2, 1, 1, 2]


@pytest.mark.anyio
async def test_the_image_at_fault_is_named_and_others_are_unharmed() -> None:
    network = RecordingNetwork()
    async with serving(network, limits(batch=8)) as batcher:
        first = await held(batcher, network)
        good, poisoned, also_good = queued(batcher, 1), queued(batcher, 2, 3, 4, POISON, 5), queued(batcher, 6, 7)
        await asyncio.sleep(0)
        network.gate.set()

        assert [firsts(await each) for each in (first, good, also_good)] == [[0], [1], [6, 7]]
        with pytest.raises(InputRefused, match=r"^images\[3\]: poison$"):
            await poisoned
    # the held one, the batch, its halves; the five images, three of them, the last two one by one up to the poison
    assert network.sizes == [1, 8, 6, 1, 5, 3, 2, 1, 2]


@pytest.mark.anyio
async def test_an_image_is_named_by_its_place_in_a_request_larger_than_a_batch() -> None:
    network = RecordingNetwork()
    async with serving(network, limits(batch=4)) as batcher:
        with pytest.raises(InputRefused, match=r"^images\[6\]: poison$"):
            await batcher.infer(null_images(0, 1, 2, 3, 4, 5, POISON, 7, 8), 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("secret"), ModelFailed, r"^expected a network that computes images\[1\], seen ValueError$"),
        (MemoryError(), Unavailable, r"^expected memory to compute images\[1\]"),
    ],
)
async def test_what_a_network_raises_is_told_without_its_words(
    error: Exception, kind: type[Exception], message: str
) -> None:
    network = RecordingNetwork()
    network.poison = error
    async with serving(network, limits()) as batcher:
        with pytest.raises(kind, match=message):
            await batcher.infer(null_images(0, POISON), 1)


@pytest.mark.anyio
async def test_a_batch_that_only_fails_as_a_whole_is_answered_in_parts() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        network.largest = 2
        assert firsts(await batcher.infer(null_images(1, 2, 3, 4), 1)) == [1, 2, 3, 4]
    assert network.sizes == [4, 2, 2]


class SteppedNetwork(RecordingNetwork):
    """Each batch is computed until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Semaphore(0)

    def infer(self, images: Images, top_k: int) -> Outputs:
        outputs = super().infer(images, top_k)
        assert self.let_go.acquire(timeout=SECONDS)
        return outputs


@pytest.mark.anyio
async def test_what_one_version_accepted_is_not_overtaken_by_what_another_accepted_later() -> None:
    network, answered = SteppedNetwork(), list[int]()

    async def ask(batcher: Batcher, index: int) -> None:
        answered.extend(firsts(await batcher.infer(null_images(index), 1)))

    with device_threads() as threads:
        async with (
            batching(network, limits(batch=1), threads, model_name="m", version="1") as old,
            batching(network, limits(batch=1), threads, model_name="m", version="2") as new,
        ):
            tasks = []
            for batcher, index in ((old, 0), (old, 1), (old, 2), (old, 3), (new, 4), (new, 5)):
                tasks.append(asyncio.create_task(ask(batcher, index)))
                await asyncio.sleep(0)
            for in_line in (3, 3, 3, 2, 1, 0):  # one of the old version's, as long as it has any, and the new one's two
                await network.has_started()
                await asyncio.to_thread(_wait_for_line, threads.turns, in_line)
                network.let_go.release()
            await asyncio.gather(*tasks)
    assert answered == [0, 1, 2, 3, 4, 5]


def _wait_for_line(turns: Turns, length: int) -> None:
    wait_for(lambda: len(turns._lines.get("m", ())) == length, f"{length} batches in line")


@pytest.mark.anyio
async def test_a_device_that_computes_no_more_refuses_everything_at_once() -> None:
    network = RecordingNetwork()
    with device_threads() as threads:
        async with batching(network, limits(), threads, model_name="m", version="1") as batcher:
            first = await held(batcher, network)
            waiting = [queued(batcher, POISON), queued(batcher, 2)]
            await asyncio.sleep(0)
            network.lost = True
            network.gate.set()
            await first

            for task in waiting:
                with pytest.raises(Unavailable, match="computes nothing any more"):
                    await task
            with pytest.raises(Unavailable, match="computes nothing any more"):
                await batcher.infer(null_images(3), 1)
    assert threads.health.lost is not None
    assert network.sizes == [1, 2]


@pytest.mark.anyio
async def test_a_call_that_takes_too_long_is_a_failing_device_until_it_comes() -> None:
    network = RecordingNetwork()
    with device_threads(longest_call_seconds=0.02) as threads:
        async with batching(network, limits(), threads, model_name="m", version="1") as batcher:
            first = await held(batcher, network)
            await asyncio.to_thread(wait_for, lambda: threads.health.failing, "a stuck call")
            with pytest.raises(Unavailable, match=r"longer than 0\.02 s"):
                await batcher.infer(null_images(1), 1)

            network.gate.set()
            assert firsts(await first) == [0]
            assert threads.health.failing is None


@pytest.mark.anyio
async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    network = RecordingNetwork()
    async with serving(network, limits(queue=5)) as batcher:
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
    async with serving(network, limits(queue=4)) as batcher:
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
    async with serving(network, limits(delay=SECONDS)) as batcher:
        accepted = [queued(batcher, index) for index in range(3)]
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await batcher.infer(null_images(1), 1)

    assert [firsts(answer) for answer in await asyncio.gather(*accepted)] == [[0], [1], [2]]


@pytest.mark.anyio
async def test_a_request_gets_at_least_the_labels_that_it_asked_for() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        few, many = await asyncio.gather(batcher.infer(null_images(1), 2), batcher.infer(null_images(2), 7))

    assert few[INDICES].shape[1] >= 2
    assert np.array_equal(many[INDICES], [[2, 3, 4, 5, 6, 7, 8]])


@pytest.mark.anyio
async def test_the_next_batch_is_staged_while_one_computes() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        first = await held(batcher, network)
        full = queued(batcher, 1, 2, 3, 4)
        await network.has_staged()

        assert (network.staged, network.sizes) == ([1, 4], [])
        network.gate.set()
        await asyncio.gather(first, full)


@pytest.mark.anyio
async def test_a_poisoned_request_is_found_by_halving() -> None:
    network, size = RecordingNetwork(), 64
    async with serving(network, limits(batch=size)) as batcher:
        first = await held(batcher, network)
        tasks = [queued(batcher, POISON if index == 37 else index) for index in range(size)]
        await asyncio.sleep(0)
        network.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await first

    assert [index for index, answer in enumerate(answers) if isinstance(answer, Exception)] == [37]
    assert len(network.sizes) == 1 + 1 + 2 * 6  # the held one, the batch, two halves of each of its 6 doublings


@pytest.mark.anyio
async def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        first = await held(batcher, network)
        with pytest.raises(DeadlinePassed, match="seen it pass"):
            await batcher.infer(null_images(1), 1, time.monotonic() + 0.01)
        with pytest.raises(DeadlinePassed, match="passed already"):
            await batcher.infer(null_images(1), 1, time.monotonic() - 1)
        network.gate.set()
        await first
    assert network.sizes == [1]


@pytest.mark.anyio
async def test_what_is_cancelled_after_staging_is_not_computed() -> None:
    network = RecordingNetwork()
    async with serving(network, limits()) as batcher:
        first = await held(batcher, network)
        gone = queued(batcher, 1, 2, 3, 4)
        await network.has_staged()
        gone.cancel()
        await asyncio.wait([gone])
        network.gate.set()
        await first
    assert network.sizes == [1]


async def calls_to_answer(waiting: int) -> float:
    """Python calls on the event loop for each of so many requests that wait together, half of which leave."""
    network, counted = RecordingNetwork(), 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    async with serving(network, limits(batch=8, queue=10_000)) as batcher:
        first = await held(batcher, network)
        sys.setprofile(count)
        try:
            tasks = [queued(batcher, 1) for _ in range(waiting)]
            await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
            network.gate.set()
            await asyncio.wait(tasks)
        finally:
            sys.setprofile(None)
        await first
    return counted / waiting


@pytest.mark.anyio
async def test_a_request_costs_the_same_whether_few_or_many_wait() -> None:
    few, many = await calls_to_answer(16), await calls_to_answer(1600)

    assert many < 1.2 * few
