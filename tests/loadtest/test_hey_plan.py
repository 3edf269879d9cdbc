"""What is sent: bounded, divisible by the workers, spread over the bodies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest.plan import (
    MAX_RUNS_AT_ONCE,
    HeyRun,
    Load,
    Progress,
    check,
    describe,
    expected_seconds,
    make_round,
    next_per_worker,
)
from whimbrel.loadtest.settings import LimitSettings

LIMITS = LimitSettings()


def rounds(
    load: Load, bodies: int, *, seconds_a_request: float = 0.01, limits: LimitSettings = LIMITS
) -> list[tuple[HeyRun, ...]]:
    """The rounds of a load that is answered in full, `seconds_a_request` by each worker."""
    found, progress = [], Progress()
    while per_worker := next_per_worker(load, bodies, progress, limits):
        found.append(make_round(load, bodies, progress, per_worker))
        progress = progress.after(per_worker, per_worker * seconds_a_request, answered=per_worker * load.concurrency)
    return found


@given(st.integers(1, 60), st.integers(1, 3000), st.integers(0, 70))
def test_a_number_of_requests_is_sent_once_and_divides_evenly(concurrency: int, requests: int, bodies: int) -> None:
    runs = [run for each in rounds(Load(concurrency, requests=requests), bodies) for run in each]
    sent = sum(run.requests for run in runs)
    assert requests <= sent < requests + concurrency
    assert all(run.requests % run.workers == 0 for run in runs)


@given(st.integers(1, 60), st.integers(0, 70))
def test_every_round_has_all_workers_and_few_processes(concurrency: int, bodies: int) -> None:
    for each in rounds(Load(concurrency, requests=500), bodies):
        assert sum(run.workers for run in each) == concurrency
        assert len(each) <= MAX_RUNS_AT_ONCE


@pytest.mark.parametrize("load", [Load(4, requests=100), Load(1, seconds=3.0)])
def test_every_body_gets_its_turn(load: Load) -> None:
    sent = [run.body for each in rounds(load, bodies=10) for run in each]
    assert set(sent) == set(range(10))


def test_the_rate_is_split_among_all_workers() -> None:
    (runs,) = rounds(Load(6, requests=60, rate=30.0), bodies=4)
    assert [run.workers for run in runs] == [2, 2, 1, 1]
    assert sum(run.workers * (run.rate_per_worker or 0) for run in runs) == pytest.approx(30.0)


def test_a_duration_is_made_of_rounds_sized_by_the_speed_before() -> None:
    found = rounds(Load(2, seconds=9.5), bodies=1, seconds_a_request=0.5)
    assert [run.requests for each in found for run in each] == [8, 8, 8, 8, 6]


def test_a_duration_at_a_rate_asks_for_no_more_than_the_rate() -> None:
    load = Load(2, seconds=8.0, rate=10.0)
    probe = next_per_worker(load, 1, Progress(), LIMITS)
    fast = next_per_worker(load, 1, Progress().after(probe, 0.1, answered=2 * probe), LIMITS)
    assert (probe, fast) == (4, 10)  # 2 s of 5/s for each worker


def test_a_duration_ends_when_nobody_answers() -> None:
    load = Load(2, seconds=60.0)
    assert next_per_worker(load, 1, Progress().after(4, 0.01, answered=0), LIMITS) == 0


def test_a_duration_never_passes_the_limit_of_requests() -> None:
    limits = LimitSettings(loadtest_max_requests=1000)
    found = rounds(Load(4, seconds=60.0), bodies=1, seconds_a_request=0.001, limits=limits)
    sent = sum(run.requests for each in found for run in each)
    assert 900 < sent <= 1000


def test_expected_seconds() -> None:
    assert expected_seconds(Load(4, requests=101, rate=8.0)) == 13.0
    assert expected_seconds(Load(4, requests=101)) is None
    assert expected_seconds(Load(4, seconds=3.0)) == 3.0


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Load(1), "expected a number of requests or a duration, one of the two"),
        (Load(1, requests=5, seconds=5.0), "one of the two"),
        (Load(0, requests=5), "--concurrency above 0 and up to 500"),
        (Load(501, requests=600), "--max-concurrency raises it"),
        (Load(1, requests=100_001), "--requests above 0 and up to 100000"),
        (Load(300, requests=99_999), "once each of 300 workers sends equally many"),
        (Load(1, seconds=601.0), "up to 600 .--max-seconds raises it., seen 601"),
        (Load(1, requests=1000, rate=1.0), "duration in seconds above 0 and up to 600"),
        (Load(1, requests=5, rate=0.0), "--rate above 0"),
        (Load(1, requests=5, rate=math.nan), "--rate above 0"),
        (Load(1, seconds=math.nan), "duration in seconds above 0"),
        (Load(1, seconds=math.inf), "duration in seconds above 0"),
        (Load(10, seconds=5.0, rate=1.0), "each of 10 workers a request within 5 s"),
        (Load(1, requests=5, timeout_seconds=0), "--timeout above 0"),
    ],
)
def test_a_load_without_an_end_is_refused(load: Load, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check(load, LIMITS)


def test_what_will_be_sent_is_said() -> None:
    assert describe(Load(3, requests=10), 1) == "12 requests unthrottled, 3 at once, 1 body"
    assert (
        describe(Load(3, seconds=2.5, rate=7.0), 2) == "as many requests as fit into 2.5 s at 7/s, 3 at once, 2 bodies"
    )
