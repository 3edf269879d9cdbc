"""Joins the images of many requests into batches for one network, on one thread; never more than its queue holds.

The whole face is `Batcher.infer` and the context manager around its life: another policy of batching takes this
module's place behind the same two.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from whimbrel.core.errors import Unavailable
from whimbrel.core.metrics import PREDICTOR_BATCH_SIZE, PREDICTOR_DEVICE_SECONDS, PREDICTOR_QUEUE_SECONDS
from whimbrel.predictors.network import Images, Network, Outputs


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_delay_seconds`: how long the first image of a batch waits for others while the device is idle."""

    max_batch_size: int
    max_delay_seconds: float
    max_queued_images: int


@dataclass(slots=True, eq=False)
class _Piece:
    """The images of one request that travel together: at most a whole batch."""

    images: Images
    top_k: int
    answer: asyncio.Future[Outputs]
    accepted: float


class Batcher:
    def __init__(self, network: Network, limits: BatchLimits, *, model_name: str) -> None:
        self._network, self._limits, self._model_name = network, limits, model_name
        self._waiting: deque[_Piece] = deque()
        self._queued_images = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")

    async def infer(self, images: Images, top_k: int) -> Outputs:
        """The outputs for these images, whatever they were batched with; k is at least `top_k` (or all classes).

        Raises Unavailable when the queue is full, and what the network raised for these very images. When the
        caller is cancelled, what has not started is not computed.
        """
        if self._closing or self._queued_images + len(images) > self._limits.max_queued_images:
            raise Unavailable(
                f"expected room for {len(images)} images in a queue of {self._limits.max_queued_images}, "
                f"seen {self._queued_images} waiting; send it again later",
                retry_after_seconds=1,
            )
        pieces = self._enqueue(images, top_k)
        try:
            return _joined(await asyncio.gather(*(piece.answer for piece in pieces)))
        except BaseException:
            for piece in pieces:
                self._forget(piece)
            raise

    def _enqueue(self, images: Images, top_k: int) -> list[_Piece]:
        loop, now, size = asyncio.get_running_loop(), time.monotonic(), self._limits.max_batch_size
        pieces = [
            _Piece(images[start : start + size], top_k, loop.create_future(), now)
            for start in range(0, len(images), size)
        ]
        self._waiting.extend(pieces)
        self._queued_images += len(images)
        self._changed.set()
        return pieces

    def _forget(self, piece: _Piece) -> None:
        """Nobody waits for this piece any more: it leaves the queue, or its outputs are dropped."""
        piece.answer.cancel()
        with contextlib.suppress(ValueError):
            self._waiting.remove(piece)
            self._queued_images -= len(piece.images)

    async def run(self) -> None:
        """Form and compute batches until closed and empty."""
        with self._thread:
            while self._waiting or not self._closing:
                if not self._waiting:
                    await self._until_changed(None)
                    continue
                await self._until_full_or_due()
                if batch := self._take():
                    await self._compute(batch)

    def close(self) -> None:
        """Take nothing more; `run` ends when what was accepted is computed."""
        self._closing = True
        self._changed.set()

    async def _until_full_or_due(self) -> None:
        due = self._waiting[0].accepted + self._limits.max_delay_seconds
        while self._queued_images < self._limits.max_batch_size and not self._closing:
            left = due - time.monotonic()
            if left <= 0:
                return
            await self._until_changed(left)

    async def _until_changed(self, seconds: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _take(self) -> list[_Piece]:
        """The pieces that wait longest and fit one batch."""
        batch: list[_Piece] = []
        left = self._limits.max_batch_size
        while self._waiting and len(self._waiting[0].images) <= left:
            batch.append(self._waiting.popleft())
            left -= len(batch[-1].images)
        self._queued_images -= self._limits.max_batch_size - left
        return batch

    async def _compute(self, batch: Sequence[_Piece]) -> None:
        """Answer every piece; when a batch of several fails, each is computed alone and keeps its own error."""
        try:
            answers = await self._on_thread(batch)
        except Exception as error:
            if len(batch) == 1 and not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            for piece in batch:
                if not piece.answer.done():
                    await self._compute([piece])
            return
        for piece, answer in zip(batch, answers, strict=True):
            if not piece.answer.done():
                piece.answer.set_result(answer)

    async def _on_thread(self, batch: Sequence[_Piece]) -> list[Outputs]:
        started = time.monotonic()
        for piece in batch:
            PREDICTOR_QUEUE_SECONDS.labels(self._model_name).observe(started - piece.accepted)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._infer, batch)

    def _infer(self, batch: Sequence[_Piece]) -> list[Outputs]:
        images = batch[0].images if len(batch) == 1 else np.concatenate([piece.images for piece in batch])
        PREDICTOR_BATCH_SIZE.labels(self._model_name).observe(len(images))
        with PREDICTOR_DEVICE_SECONDS.labels(self._model_name).time():
            outputs = self._network.infer(images, max(piece.top_k for piece in batch))
        ends = np.cumsum([len(piece.images) for piece in batch])
        return [
            {name: output[end - len(piece.images) : end] for name, output in outputs.items()}
            for piece, end in zip(batch, ends, strict=True)
        ]


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@asynccontextmanager
async def batching(network: Network, limits: BatchLimits, *, model_name: str) -> AsyncIterator[Batcher]:
    """A batcher at work; leaving finishes what it accepted."""
    batcher = Batcher(network, limits, model_name=model_name)
    running = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        batcher.close()
        await running
