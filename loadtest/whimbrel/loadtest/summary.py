"""What one concurrency came to: latency by percentile and histogram, statuses, errors; from all rows, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.loadtest.rows import Rows

# By thousandths: whole numbers, so that a rank is exact.
PERCENTILES = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}

# Ten bins a decade from 0.1 ms, hey's own resolution, to 10,000 s, past any timeout: fixed, so that two runs can be
# laid over each other.
_EDGES_MS: NDArray[np.float64] = 10.0 ** (np.arange(-10, 71) / 10.0)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds. A percentile is the nearest rank: a measured value that this part of the answers kept to."""

    count: int
    mean: float
    min: float
    max: float
    percentiles: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bin:
    """`count` answers took more than `above_ms` and up to `to_ms`."""

    above_ms: float
    to_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One concurrency. `sent` was planned, `answered` is the rows, `errors` is what is neither: see `errors`.

    `throughput` is answers of status 2xx a second. `cut`: hey was stopped at the time limit, so part of what is
    unanswered may never have been sent.
    """

    concurrency: int
    rate: float | None
    sent: int
    answered: int
    succeeded: int
    seconds: float
    throughput: float
    latency: Latency | None
    by_status: dict[int, Latency]
    histogram: tuple[Bin, ...]
    cut: bool

    @property
    def unanswered(self) -> int:
        """Refused or broken connections and timeouts, none of which hey writes a row for."""
        return self.sent - self.answered

    @property
    def errors(self) -> int:
        """Everything that was sent and not answered by a status 2xx."""
        return self.sent - self.succeeded


def summarise(rows: Rows, *, concurrency: int, rate: float | None, sent: int, seconds: float, cut: bool) -> Stage:
    milliseconds = rows.seconds * 1000
    good = (rows.statuses >= 200) & (rows.statuses < 300)
    succeeded = int(good.sum())
    return Stage(
        concurrency=concurrency,
        rate=rate,
        sent=sent,
        answered=len(rows),
        succeeded=succeeded,
        seconds=seconds,
        throughput=succeeded / seconds if seconds > 0 else 0.0,
        latency=latency(milliseconds),
        by_status={
            int(status): found
            for status in np.unique(rows.statuses)
            if (found := latency(milliseconds[rows.statuses == status])) is not None
        },
        histogram=histogram(milliseconds),
        cut=cut,
    )


def latency(milliseconds: NDArray[np.float64]) -> Latency | None:
    """None without any value."""
    if not len(milliseconds):
        return None
    ranked = np.sort(milliseconds)
    return Latency(
        count=len(milliseconds),
        mean=round(float(milliseconds.mean()), 3),
        min=round(float(milliseconds.min()), 3),
        max=round(float(milliseconds.max()), 3),
        percentiles={
            name: round(float(ranked[math.ceil(len(ranked) * thousandths / 1000) - 1]), 3)
            for name, thousandths in PERCENTILES.items()
        },
    )


def histogram(milliseconds: NDArray[np.float64]) -> tuple[Bin, ...]:
    """The bins that hold something, in order; every value is in one."""
    # side="left" puts a value that equals an edge below it.
    indices = np.clip(np.searchsorted(_EDGES_MS, milliseconds, side="left"), 0, len(_EDGES_MS) - 1)
    counts = np.bincount(indices)
    edges = [0.0, *(round(float(edge), 4) for edge in _EDGES_MS)]
    return tuple(Bin(edges[i], edges[i + 1], int(count)) for i, count in enumerate(counts) if count)


def as_json(stage: Stage) -> dict[str, Any]:
    return {
        "concurrency": stage.concurrency,
        "rate": stage.rate,
        "sent": stage.sent,
        "answered": stage.answered,
        "succeeded": stage.succeeded,
        "unanswered": stage.unanswered,
        "errors": stage.errors,
        "cut": stage.cut,
        "seconds": round(stage.seconds, 4),
        "throughput": round(stage.throughput, 3),
        "latency_ms": None if stage.latency is None else _latency_json(stage.latency),
        "by_status": {str(status): _latency_json(each) for status, each in stage.by_status.items()},
        "histogram": [[each.above_ms, each.to_ms, each.count] for each in stage.histogram],
    }


def from_json(document: dict[str, Any]) -> Stage:
    """The inverse of `as_json`; raises KeyError, TypeError or ValueError for anything else."""
    latency_ms = document["latency_ms"]
    return Stage(
        concurrency=int(document["concurrency"]),
        rate=None if document["rate"] is None else float(document["rate"]),
        sent=int(document["sent"]),
        answered=int(document["answered"]),
        succeeded=int(document["succeeded"]),
        seconds=float(document["seconds"]),
        throughput=float(document["throughput"]),
        latency=None if latency_ms is None else _latency_of(latency_ms),
        by_status={int(status): _latency_of(each) for status, each in document["by_status"].items()},
        histogram=tuple(Bin(float(above), float(to), int(count)) for above, to, count in document["histogram"]),
        cut=bool(document["cut"]),
    )


def _latency_json(found: Latency) -> dict[str, float]:
    return {"count": found.count, "mean": found.mean, "min": found.min, "max": found.max, **found.percentiles}


def _latency_of(document: dict[str, Any]) -> Latency:
    return Latency(
        count=int(document["count"]),
        mean=float(document["mean"]),
        min=float(document["min"]),
        max=float(document["max"]),
        percentiles={name: float(document[name]) for name in PERCENTILES},
    )
