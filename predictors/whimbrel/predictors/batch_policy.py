"""How large a batch should be and how long it may wait for others: decisions from measured times, without I/O.

Nothing here reads a clock or holds a request; the loop in `batcher` asks, measures and tells.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

PROFIT = 1.05  # a larger batch has to compute at least 5 % more images a second, or it only waits longer
_NEW_MEASUREMENT_WEIGHT = 0.2
_BATCHES_BETWEEN_TRIALS = 16


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of what is learned; where not `adaptive`, size and delay are these.

    `max_delay_seconds`: how long the first image of a batch waits for others while the device is idle.
    `latency_budget_seconds`: what waiting and computing one batch may take together, where one image alone does not
    take longer.
    """

    max_batch_size: int
    max_delay_seconds: float
    max_queued_images: int
    adaptive: bool = False
    latency_budget_seconds: float = math.inf


@dataclass(slots=True)
class BatchTimes:
    """Seconds on the device by batch size, smoothed; kept for each doubling of the size, interpolated between.

    The first few of a size are averaged: one of a bad moment does not stand for long.
    """

    _measured: dict[int, tuple[float, float]] = field(default_factory=dict)  # doubling: (size, seconds)
    _counts: dict[int, int] = field(default_factory=dict)  # doubling: how often it was measured
    _points: list[tuple[float, float]] = field(default_factory=list)  # the same by size
    batches: int = 0
    decided: dict[BatchLimits, int] = field(default_factory=dict)  # sizes that hold until the next measurement

    def observe(self, size: int, seconds: float) -> None:
        self.batches += 1
        self.decided.clear()
        doubling = (size - 1).bit_length()
        old = self._measured.get(doubling, (float(size), seconds))
        count = self._counts[doubling] = self._counts.get(doubling, 0) + 1
        weight = max(_NEW_MEASUREMENT_WEIGHT, 1 / count)
        self._measured[doubling] = (_smoothed(old[0], size, weight), _smoothed(old[1], seconds, weight))
        self._points = [self._measured[doubling] for doubling in sorted(self._measured)]

    def adopt(self, others: BatchTimes) -> None:
        """Expect of other sizes what another network's times say, in proportion to the smallest that was measured."""
        if not self._points or not others.batches:
            return
        size, seconds = self._points[0]
        factor = seconds / others.seconds(size)
        adopted = {each: (count, time * factor) for each, (count, time) in others._measured.items()}
        self._measured = adopted | self._measured
        self._points = [self._measured[doubling] for doubling in sorted(self._measured)]
        self.decided.clear()

    def seconds(self, size: float) -> float:
        """Expected seconds of a batch; beyond what was measured, in proportion. NaN where nothing was."""
        points = self._points
        if not points:
            return math.nan
        position = bisect_left(points, (size, 0.0))
        if position == len(points):
            largest, seconds = points[-1]
            return seconds * size / largest
        if position == 0:
            return points[0][1]
        (below, before), (above, after) = points[position - 1], points[position]
        return before + (after - before) * (size - below) / (above - below)

    @property
    def largest(self) -> int:
        """The largest size that was measured, as the doubling that it belongs to; 0 where none was."""
        return 1 << max(self._measured) if self._measured else 0


@dataclass(slots=True)
class Arrivals:
    """Seconds between two images that arrive, smoothed. Unknown is endless: nothing waits for what nobody saw come."""

    _seconds: float = math.inf
    _last: float = -math.inf

    def observe(self, now: float, images: int) -> None:
        sample = (now - self._last) / images
        known = math.isfinite(self._seconds) and math.isfinite(sample)
        self._seconds = _smoothed(self._seconds, sample) if known else sample
        self._last = now

    def seconds_between(self, now: float) -> float:
        """At least the time since the last: a stream that ended is no reason to wait."""
        return max(self._seconds, now - self._last)


def batch_size(times: BatchTimes, limits: BatchLimits) -> int:
    """The most images that the next batch should have: as many as the device profits from within the budget.

    While the largest size that was measured is the best one, the next doubling is allowed too; and now and then one or
    two doublings beyond the best, so that a measurement of a bad moment is mended, and a size that does not pay hides
    none that does.
    """
    if not limits.adaptive:
        return limits.max_batch_size
    decided = times.decided.get(limits)
    if decided is None:
        decided = times.decided[limits] = _decided_size(times, limits)
    return decided


def _decided_size(times: BatchTimes, limits: BatchLimits) -> int:
    if not times.largest:
        return 1
    best = _most_profitable(times, limits)
    trial, until_then = divmod(times.batches, _BATCHES_BETWEEN_TRIALS)
    if until_then == _BATCHES_BETWEEN_TRIALS - 1:
        far = 4 * best
        best = far if trial % 2 and times.seconds(far) <= limits.latency_budget_seconds else 2 * best
    elif best == times.largest:
        best *= 2
    return min(best, limits.max_batch_size)


def grows(times: BatchTimes, limits: BatchLimits) -> bool:
    """Whether a warm-up should measure the next doubling: there is one, and the last one paid."""
    if times.largest >= limits.max_batch_size:
        return False
    return times.largest <= 1 or _most_profitable(times, limits) == times.largest


def seconds_to_wait(
    waiting: int, waited: float, between: float, times: BatchTimes, limits: BatchLimits, *, busy: bool
) -> float | None:
    """How long to go on waiting for others before the `waiting` images leave; None until the device is free.

    `waited`: seconds of the oldest image; `between`: seconds between two images that arrive.
    """
    if waiting >= batch_size(times, limits):
        return 0.0
    if busy:
        return None
    return max(0.0, patience(waiting, between, times, limits) - waited)


def patience(waiting: int, between: float, times: BatchTimes, limits: BatchLimits) -> float:
    """Seconds that it pays to wait with an idle device for a larger batch: 0 for a lone request.

    Waiting for m images costs (m - n) * between; it pays when wait and batch together cost less an image than the
    n that are here would now.
    """
    if not limits.adaptive:
        return limits.max_delay_seconds
    now = times.seconds(waiting) / waiting
    best, best_cost = 0.0, now / PROFIT
    size, largest = 1 << waiting.bit_length(), batch_size(times, limits)
    while size <= largest:
        wait = (size - waiting) * between
        together = wait + times.seconds(size)
        if wait <= limits.max_delay_seconds and together <= limits.latency_budget_seconds:
            cost = together / size
            if cost < best_cost:
                best, best_cost = wait, cost
        size *= 2
    return best


def _most_profitable(times: BatchTimes, limits: BatchLimits) -> int:
    """The smallest doubling that no larger one within the budget beats by `PROFIT`."""
    sizes = [1 << doubling for doubling in range(times.largest.bit_length())]
    fitting = [size for size in sizes if size == 1 or times.seconds(size) <= limits.latency_budget_seconds]
    best = fitting[0]
    for size in fitting[1:]:
        if times.seconds(best) / best > PROFIT * times.seconds(size) / size:
            best = size
    return best


def _smoothed(old: float, new: float, weight: float = _NEW_MEASUREMENT_WEIGHT) -> float:
    return old + weight * (new - old)
