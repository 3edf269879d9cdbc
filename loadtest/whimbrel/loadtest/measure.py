"""Sends the load: a warm-up that is thrown away, then every concurrency in turn, each a sequence of rounds."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from whimbrel.core.errors import PayloadTooLarge, SettingsError
from whimbrel.loadtest.hey import Request, arguments, find_hey, run_together
from whimbrel.loadtest.plan import Load, Progress, check, describe, make_round, next_per_worker
from whimbrel.loadtest.report import Machine, Report, SentBody
from whimbrel.loadtest.rows import Rows, joined, parse
from whimbrel.loadtest.settings import LimitSettings
from whimbrel.loadtest.summary import Stage, summarise

DEFAULT_WARM_UP = 10
_OVERRUN_SECONDS = 10.0  # a load by time may end this and one timeout later, when the service slows down meanwhile


def plan_lines(request: Request, loads: Sequence[Load], warm_up: int, limits: LimitSettings) -> list[str]:
    """What `measure` would send, one line each; raises SettingsError for what it would refuse."""
    _check_all(request, loads, warm_up, limits)
    host = f" (Host: {request.target.host})" if request.target.host else ""
    lines = [f"{request.method} {request.target.url}{host}"]
    if warm_up:
        lines.append(f"warm-up, thrown away: {describe(_warm_up(loads[0], warm_up), len(request.bodies))}")
    return lines + [describe(load, len(request.bodies)) for load in loads]


def measure(
    request: Request,
    loads: Sequence[Load],
    *,
    warm_up: int = DEFAULT_WARM_UP,
    limits: LimitSettings,
    on_stage: Callable[[Stage], None] = lambda _: None,
) -> Report:
    """Run every load in turn; `on_stage` hears of each as it ends.

    Raises SettingsError for a load without an end or past a limit, and without hey. A service that does not answer
    is no exception: it is in the numbers.
    """
    _check_all(request, loads, warm_up, limits)
    hey = find_hey()
    started = datetime.now(UTC)
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory(prefix="whimbrel-loadtest-") as folder:
        sender = _Sender(hey, request, limits, Path(folder))
        if warm_up:
            sender.send(_warm_up(loads[0], warm_up))
        for load in loads:
            stages.append(sender.send(load))
            on_stage(stages[-1])
    return Report(
        time=started,
        target=request.target,
        method=request.method,
        bodies=tuple(SentBody(body.name, body.content_type, len(body.content)) for body in request.bodies),
        machine=Machine(os.cpu_count() or 1, platform.platform()),
        stages=tuple(stages),
    )


class _Sender:
    """hey, the request and the files that the two exchange."""

    def __init__(self, hey: str, request: Request, limits: LimitSettings, folder: Path) -> None:
        self._hey, self._request, self._limits, self._folder = hey, request, limits, folder
        self._files = [folder / f"{index}.body" for index in range(len(request.bodies))]
        for file, body in zip(self._files, request.bodies, strict=True):
            file.write_bytes(body.content)

    def send(self, load: Load) -> Stage:
        progress, answered, cut = Progress(), [], False
        bodies = len(self._request.bodies)
        deadline = time.monotonic() + _longest(load, self._limits)
        while not cut and (per_worker := next_per_worker(load, bodies, progress, self._limits)):
            rows, seconds, cut = self._round(load, progress, per_worker, deadline)
            answered.append(rows)
            progress = progress.after(per_worker, seconds, len(rows))
        return summarise(
            joined(answered),
            concurrency=load.concurrency,
            rate=load.rate,
            sent=progress.per_worker * load.concurrency,
            seconds=progress.seconds,
            cut=cut,
        )

    def _round(self, load: Load, progress: Progress, per_worker: int, deadline: float) -> tuple[Rows, float, bool]:
        runs = make_round(load, len(self._request.bodies), progress, per_worker)
        files = [self._files[run.body] if self._files else None for run in runs]
        commands = [
            arguments(self._hey, self._request, run, file, load.timeout_seconds)
            for run, file in zip(runs, files, strict=True)
        ]
        begun = time.monotonic()
        finished = run_together(commands, self._folder, seconds=deadline - begun, timeout_seconds=load.timeout_seconds)
        elapsed = time.monotonic() - begun
        rows = joined(parse(each.csv) for each in finished)
        complete = len(rows) == per_worker * load.concurrency
        # The clock around hey includes its start and the writing of its rows; its rows tell more closely, but not
        # how long the requests took that failed.
        return rows, rows.span_seconds if complete else elapsed, any(each.cut for each in finished)


def _longest(load: Load, limits: LimitSettings) -> float:
    if load.seconds is None:
        return limits.loadtest_max_seconds
    return min(limits.loadtest_max_seconds, load.seconds + load.timeout_seconds + _OVERRUN_SECONDS)


def _warm_up(load: Load, requests: int) -> Load:
    return Load(min(load.concurrency, requests), requests=requests, timeout_seconds=load.timeout_seconds)


def _check_all(request: Request, loads: Sequence[Load], warm_up: int, limits: LimitSettings) -> None:
    if not loads:
        raise SettingsError("expected at least one concurrency, seen none; give --concurrency")
    if not 0 <= warm_up <= limits.loadtest_max_requests:
        raise SettingsError(f"expected --warm-up from 0 to {limits.loadtest_max_requests}, seen {warm_up}")
    for load in loads:
        check(load, limits)
    if len(request.bodies) > limits.loadtest_max_bodies:
        raise SettingsError(
            f"expected at most {limits.loadtest_max_bodies} bodies (--max-bodies), seen {len(request.bodies)}"
        )
    for body in request.bodies:
        if len(body.content) > limits.loadtest_max_body_bytes:
            raise PayloadTooLarge(
                f"expected at most {limits.loadtest_max_body_bytes} bytes a body (--max-body-bytes), "
                f"seen {len(body.content)} in {body.name!r}"
            )
