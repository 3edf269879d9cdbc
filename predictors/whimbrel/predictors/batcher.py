"""Joins the images of many requests into batches for one network; never more than its queue holds.

Two stages, each on its thread: while one batch computes, the next is joined and copied to the device. The whole face
is `Batcher.infer`, `Batcher.measure` and the context manager around its life; what is decided lies in `batch_policy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.core.errors import DeadlinePassed, Unavailable
from whimbrel.core.metrics import (
    PREDICTOR_BATCH_SIZE,
    PREDICTOR_DEVICE_SECONDS,
    PREDICTOR_QUEUE_SECONDS,
    PREDICTOR_QUEUED_IMAGES,
)
from whimbrel.predictors.batch_policy import Arrivals, BatchLimits, BatchTimes, batch_size, seconds_to_wait
from whimbrel.predictors.device_health import DeviceHealth
from whimbrel.predictors.memory import Taken
from whimbrel.predictors.network import Images, Network, Outputs
from whimbrel.predictors.pieces import Piece, blamed, pieces_of
from whimbrel.predictors.tasks.task import joined
from whimbrel.predictors.turns import Turns

LONGEST_CALL_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceThreads:
    """One thread to stage batches and one to compute them; all versions of all models share them, batch by batch.

    `taken`: the memory of them all. `turns`: of the batches on `compute`.
    """

    stage: ThreadPoolExecutor
    compute: ThreadPoolExecutor
    health: DeviceHealth
    taken: Taken
    turns: Turns


@contextmanager
def device_threads(longest_call_seconds: float = LONGEST_CALL_SECONDS) -> Iterator[DeviceThreads]:
    with ThreadPoolExecutor(1, "stage") as stage, ThreadPoolExecutor(1, "compute") as compute:
        yield DeviceThreads(stage, compute, DeviceHealth(longest_call_seconds), Taken(), Turns())


class Batcher:
    def __init__(
        self, network: Network, limits: BatchLimits, threads: DeviceThreads, *, model_name: str, version: str
    ) -> None:
        self._network, self._limits, self._threads = network, limits, threads
        self._model_name = model_name
        self._queue_seconds = PREDICTOR_QUEUE_SECONDS.labels(model_name, version)
        self._device_seconds = PREDICTOR_DEVICE_SECONDS.labels(model_name, version)
        self._batch_size = PREDICTOR_BATCH_SIZE.labels(model_name, version)
        queued = PREDICTOR_QUEUED_IMAGES.labels(model_name, version)
        queued.set_function(lambda: self._queued_images)
        self.times, self._arrivals = BatchTimes(), Arrivals()
        self._waiting: OrderedDict[Piece, None] = OrderedDict()  # by age; any leaves at the same cost
        self._queued_images = 0
        self._changed = asyncio.Event()
        self._closing = self._busy = False

    async def infer(self, images: Images, top_k: int, deadline: float | None = None) -> Outputs:
        """The outputs for these images, whatever they were batched with; at least `top_k` of each where there are.

        `deadline` is a time of `time.monotonic`. Raises Unavailable when the queue is full, DeadlinePassed, and what
        the network raised for these very images. When the caller is cancelled or the deadline passes, what has not
        started is not computed.
        """
        self._check_admitted(len(images), deadline)
        pieces = self._enqueue(images, top_k)
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return joined(await asyncio.gather(*(piece.answer for piece in pieces)))
        except TimeoutError:
            if limit.expired():
                raise DeadlinePassed("expected an answer before the request's deadline, seen it pass") from None
            raise
        finally:
            for piece in pieces:
                self._forget(piece)

    async def measure(self, images: Images, top_k: int, *, count: bool = True) -> None:
        """Compute one batch of exactly these images before the model's queue; `count`: its time is one to learn from.

        Raises what the network raised, or Unavailable where it is the device that fails.
        """
        try:
            await self._measure(images, top_k, count=count)
        except Exception:
            await self._check_device()
            raise

    async def _measure(self, images: Images, top_k: int, *, count: bool) -> None:
        staged = await self._run(self._threads.stage, self._network.stage, [images])
        async with self._threads.turns.turn(self._model_name, since=0.0):
            _, seconds = await self._run(self._threads.compute, self._timed, staged, top_k)
        if count:
            self.times.observe(len(images), seconds)

    def _check_admitted(self, images: int, deadline: float | None) -> None:
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlinePassed("expected a request before its deadline, seen it passed already")
        self._threads.health.check()
        if self._closing or self._queued_images + images > self._limits.max_queued_images:
            raise Unavailable(
                f"expected room for {images} images in a queue of {self._limits.max_queued_images}, "
                f"seen {self._queued_images} waiting; send it again later",
                retry_after_seconds=1,
            )

    def _enqueue(self, images: Images, top_k: int) -> list[Piece]:
        now = time.monotonic()
        pieces = pieces_of(images, top_k, batch_size(self.times, self._limits), now)
        self._waiting.update(dict.fromkeys(pieces))
        self._queued_images += len(images)
        self._arrivals.observe(now, len(images))
        self._changed.set()
        return pieces

    def _forget(self, piece: Piece) -> None:
        """Nobody waits for this piece any more: it leaves the queue, or its outputs are dropped."""
        piece.answer.cancel()
        if piece in self._waiting:
            del self._waiting[piece]
            self._queued_images -= len(piece.images)

    async def run(self) -> None:
        """Form and compute batches until closed and empty. That it ends before is a fault of ours: nobody waits on."""
        try:
            await self._run_batches()
        except Exception as error:
            logger.exception("batches are no longer formed")
            self._threads.health.lose(f"the end of batching by {type(error).__name__}")
            for piece in self._waiting:
                piece.fail(Unavailable("expected a batch, seen the end of batching", retry_after_seconds=5))

    async def _run_batches(self) -> None:
        """The next batch is staged, and in line for the device, while one computes; beside an idle device, the thread
        that stages would only be a detour."""
        computing: asyncio.Task[None] | None = None
        while await self._batch_is_due():
            batch = self._take()
            staging = self._staged(batch) if self._threads.health.in_use else None
            if staging is not None:
                await asyncio.wait([staging])
            following = asyncio.create_task(self._compute_in_turn(batch, staging))
            if computing is not None:
                await computing
            self._busy = True
            computing = following
            computing.add_done_callback(self._free)
        if computing is not None:
            await computing

    def close(self) -> None:
        """Take nothing more; `run` ends when what was accepted is computed."""
        self._closing = True
        self._changed.set()

    def _free(self, _: asyncio.Task[None]) -> None:
        self._busy = False
        self._changed.set()

    async def _batch_is_due(self) -> bool:
        """Wait until a batch should leave; False when closed and empty."""
        while True:
            if not self._waiting and self._closing:
                return False
            seconds = self._seconds_to_wait()
            if seconds == 0:
                return True
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    def _seconds_to_wait(self) -> float | None:
        if not self._waiting:
            return None
        if self._closing:
            return 0.0
        now = time.monotonic()
        waited = now - next(iter(self._waiting)).accepted
        between = self._arrivals.seconds_between(now)
        return seconds_to_wait(self._queued_images, waited, between, self.times, self._limits, busy=self._busy)

    def _take(self) -> list[Piece]:
        """The pieces that wait longest and fit one batch; at least one."""
        batch: list[Piece] = []
        left = batch_size(self.times, self._limits)
        while self._waiting and (not batch or len(next(iter(self._waiting)).images) <= left):
            piece, _ = self._waiting.popitem(last=False)
            batch.append(piece)
            left -= len(piece.images)
            self._queued_images -= len(piece.images)
        return batch

    async def _compute_in_turn(self, batch: Sequence[Piece], staging: Awaitable[Any] | None) -> None:
        async with self._threads.turns.turn(self._model_name, batch[0].accepted):
            await self._compute(batch, staging)

    async def _compute(self, batch: Sequence[Piece], staging: Awaitable[Any] | None = None) -> None:
        """Answer every piece. A batch that fails is halved until an image that fails is alone with its error."""
        batch_alive = any(not piece.answer.done() for piece in batch)
        try:
            answers = await self._on_device(batch, staging) if batch_alive else []
        except Exception as error:
            await self._compute_after(error, [piece for piece in batch if not piece.answer.done()])
            return
        for piece, answer in zip(batch, answers, strict=batch_alive):
            if not piece.answer.done():
                piece.answer.set_result(answer)

    async def _compute_after(self, error: Exception, batch: Sequence[Piece]) -> None:
        try:
            await self._check_device()
        except Unavailable as failing:
            for piece in batch:
                piece.fail(failing)
            return
        if len(batch) == 1:
            await self._compute_images(batch[0], error)
            return
        middle = (len(batch) + 1) // 2
        for half in (batch[:middle], batch[middle:]):
            if half:
                await self._compute(half)

    async def _compute_images(self, piece: Piece, error: Exception) -> None:
        """One request's piece that fails alone: its first image at fault is its answer; what comes after is spared."""
        if len(piece.images) == 1:
            piece.fail(blamed(piece, error))
            return
        halves = piece.halves()
        for half in halves:
            if piece.answer.done():
                return
            await self._compute([half])
            failed = half.answer.exception()
            if failed is not None:
                piece.fail(failed)  # type: ignore[arg-type] # pieces fail by exceptions only
                return
        if not piece.answer.done():
            piece.answer.set_result(joined([half.answer.result() for half in halves]))

    async def _check_device(self) -> None:
        """After a failure: is it the device's? Raises Unavailable, and ends readiness, where it computes no more."""
        try:
            computes = await self._run(self._threads.compute, self._network.device_computes)
        except Exception as error:
            logger.exception("the device cannot be asked")
            computes, reason = False, f"{type(error).__name__} when it was asked"
        else:
            reason = "a device that computes nothing any more"
        if not computes:
            self._threads.health.lose(reason)
        self._threads.health.check()

    async def _on_device(self, batch: Sequence[Piece], staging: Awaitable[Any] | None) -> list[Outputs]:
        staged = None if staging is None else await staging
        started = time.monotonic()
        ends = np.cumsum([len(piece.images) for piece in batch]).tolist()
        for piece in batch:
            self._queue_seconds.observe(started - piece.accepted)
        self._batch_size.observe(ends[-1])
        top_k = max(piece.top_k for piece in batch)
        if staging is None:
            computing = self._run(self._threads.compute, self._staged_and_timed, batch, top_k)
        else:
            computing = self._run(self._threads.compute, self._timed, staged, top_k)
        outputs, seconds = await computing
        self._device_seconds.observe(seconds)
        self.times.observe(ends[-1], seconds)
        return [
            {name: output[end - len(piece.images) : end] for name, output in outputs.items()}
            for piece, end in zip(batch, ends, strict=True)
        ]

    def _staged_and_timed(self, batch: Sequence[Piece], top_k: int) -> tuple[Outputs, float]:
        return self._timed(self._network.stage([piece.images for piece in batch]), top_k)

    def _timed(self, staged: Any, top_k: int) -> tuple[Outputs, float]:
        started = time.perf_counter()
        outputs = self._network.infer(staged, top_k)
        return outputs, time.perf_counter() - started

    def _staged(self, batch: Sequence[Piece]) -> asyncio.Future[Any]:
        return self._run(self._threads.stage, self._network.stage, [piece.images for piece in batch])

    def _run(self, thread: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        def watched() -> Any:
            with self._threads.health.call():
                return call(*arguments)

        return asyncio.get_running_loop().run_in_executor(thread, watched)


@asynccontextmanager
async def batching(
    network: Network, limits: BatchLimits, threads: DeviceThreads, *, model_name: str, version: str
) -> AsyncIterator[Batcher]:
    """A batcher at work; leaving finishes what it accepted."""
    batcher = Batcher(network, limits, threads, model_name=model_name, version=version)
    running = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        batcher.close()
        await running
        for metric in (
            PREDICTOR_QUEUED_IMAGES,
            PREDICTOR_QUEUE_SECONDS,
            PREDICTOR_DEVICE_SECONDS,
            PREDICTOR_BATCH_SIZE,
        ):
            metric.remove(model_name, version)
