"""How much hey is asked to send, and when: rounds of bounded runs, one run for each body at once; no I/O.

hey takes one body a process, drops what does not divide evenly among its workers, applies `-q` to each worker and, in
a run by time (`-z`), says nothing of the requests that failed. So every run here has a number of requests that divides
evenly, and a load by time is a sequence of such rounds, each sized by the speed of the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest.settings import LimitSettings

MAX_RUNS_AT_ONCE = 8
ROUND_SECONDS = 2.0  # short: a service that slows down meanwhile stretches the round that was sized before
PROBE_REQUESTS_PER_WORKER = 4
LEAST_PART = 0.02  # of the time asked for: what is left below it starts no further round


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent at one concurrency: `requests`, or as many as `seconds` take; `rate` is requests/s over all."""

    concurrency: int
    requests: int | None = None
    seconds: float | None = None
    rate: float | None = None
    timeout_seconds: int = 20

    def at(self, concurrency: int) -> Load:
        return replace(self, concurrency=concurrency)


@dataclass(frozen=True, slots=True)
class HeyRun:
    """One hey process: `body` is an index, `requests` a multiple of `workers`."""

    body: int
    workers: int
    requests: int
    rate_per_worker: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the rounds so far came to. `last_*` are of the last round alone."""

    rounds: int = 0
    per_worker: int = 0
    seconds: float = 0.0
    last_per_worker: int = 0
    last_seconds: float = 0.0
    last_answered: int = 0

    def after(self, per_worker: int, seconds: float, answered: int) -> Progress:
        return Progress(
            self.rounds + 1,
            self.per_worker + per_worker,
            self.seconds + seconds,
            last_per_worker=per_worker,
            last_seconds=seconds,
            last_answered=answered,
        )


def check(load: Load, limits: LimitSettings) -> None:
    """Raises SettingsError for a load without an end, or past a limit."""
    if (load.requests is None) == (load.seconds is None):
        raise SettingsError(
            "expected a number of requests or a duration, one of the two; give --requests or --duration"
        )
    _within("--concurrency", load.concurrency, limits.loadtest_max_concurrency, "--max-concurrency")
    _within("--timeout", load.timeout_seconds, 3600, None)
    if load.rate is not None and not (0 < load.rate <= 1e6):
        raise SettingsError(f"expected --rate above 0 and up to 1000000 requests/s, seen {load.rate:g}")
    if load.requests is not None:
        _within("--requests", load.requests, limits.loadtest_max_requests, "--max-requests")
        if per_worker_of(load) * load.concurrency > limits.loadtest_max_requests:
            raise SettingsError(
                f"expected --requests that still fit {limits.loadtest_max_requests} (--max-requests) once each of "
                f"{load.concurrency} workers sends equally many; lower one of the two"
            )
    seconds = expected_seconds(load)
    if seconds is not None:
        _within("duration in seconds", seconds, limits.loadtest_max_seconds, "--max-seconds")
    if load.seconds and load.rate and load.concurrency / load.rate > load.seconds:
        raise SettingsError(
            f"expected a rate that gives each of {load.concurrency} workers a request within {load.seconds:g} s, "
            f"seen {load.rate:g}/s in all; raise --rate or --duration, or lower --concurrency"
        )


def expected_seconds(load: Load) -> float | None:
    """None where only the service's speed decides."""
    if load.seconds is not None:
        return load.seconds
    if load.rate is not None and load.requests is not None:
        return per_worker_of(load) * load.concurrency / load.rate
    return None


def per_worker_of(load: Load) -> int:
    """Requests of each worker in a load by number: rounded up, so that never fewer are sent than asked for."""
    return math.ceil((load.requests or 0) / load.concurrency)


def runs_at_once(load: Load, bodies: int) -> int:
    return max(1, min(bodies, load.concurrency, MAX_RUNS_AT_ONCE))


def next_per_worker(load: Load, bodies: int, progress: Progress, limits: LimitSettings) -> int:
    """How many requests each worker sends in the next round; 0 when the load is done."""
    if load.requests is not None:
        left = per_worker_of(load) - progress.per_worker
        rounds = max(1, math.ceil(bodies / runs_at_once(load, bodies)) - progress.rounds)
        return math.ceil(left / rounds)
    most = limits.loadtest_max_requests // load.concurrency - progress.per_worker
    return max(0, min(_by_time(load, bodies, progress), most))


def make_round(load: Load, bodies: int, progress: Progress, per_worker: int) -> tuple[HeyRun, ...]:
    """The runs of one round: the workers shared out evenly, the bodies taken in turn, on from the round before."""
    at_once = runs_at_once(load, bodies)
    rate = None if load.rate is None else load.rate / load.concurrency
    each, more = divmod(load.concurrency, at_once)
    shares = [each + (index < more) for index in range(at_once)]
    first = progress.rounds * at_once
    return tuple(
        HeyRun((first + index) % max(1, bodies), workers, workers * per_worker, rate)
        for index, workers in enumerate(shares)
    )


def describe(load: Load, bodies: int) -> str:
    """One line: what will be sent."""
    amount = f"{per_worker_of(load) * load.concurrency} requests" if load.requests is not None else "as many requests"
    time = "" if load.seconds is None else f" as fit into {load.seconds:g} s"
    rate = " unthrottled" if load.rate is None else f" at {load.rate:g}/s"
    parts = f"{amount}{time}{rate}, {load.concurrency} at once, {max(1, bodies)} bodies"
    return parts.replace(" 1 bodies", " 1 body")


def _by_time(load: Load, bodies: int, progress: Progress) -> int:
    seconds = load.seconds or 0.0
    left = seconds - progress.seconds
    silent = progress.rounds > 0 and progress.last_answered == 0
    if silent or left <= seconds * LEAST_PART:
        return 0
    paced = math.inf if load.rate is None else load.rate / load.concurrency
    if progress.rounds == 0:
        return max(1, math.floor(min(PROBE_REQUESTS_PER_WORKER, paced * left)))
    speed = min(paced, progress.last_per_worker / max(progress.last_seconds, 1e-3))
    turns = math.ceil(max(1, bodies) / runs_at_once(load, bodies))  # rounds until every body was sent
    return max(1, math.floor(speed * min(left, ROUND_SECONDS, seconds / turns)))


def _within(what: str, value: float, most: float, option: str | None) -> None:
    if not 0 < value <= most:
        raised = f" ({option} raises it)" if option else ""
        raise SettingsError(f"expected {what} above 0 and up to {most:g}{raised}, seen {value:g}")
