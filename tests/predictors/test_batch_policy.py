"""What is decided about batches, from given times: no clock, no thread."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from whimbrel.predictors.batch_policy import (
    Arrivals,
    BatchLimits,
    BatchTimes,
    batch_size,
    grows,
    patience,
    seconds_to_wait,
)
from whimbrel.predictors.warm_up import is_wanted

ADAPTIVE = BatchLimits(64, 0.005, 1000, adaptive=True, latency_budget_seconds=0.25)
FIXED = BatchLimits(64, 0.005, 1000)


def parallel(size: int) -> float:
    """A device that computes 16 images in the time of one."""
    return 0.004 * math.ceil(size / 16)


def serial(size: int) -> float:
    """A device that gains nothing from batches."""
    return 0.03 * size


def measured(seconds: Callable[[int], float], limits: BatchLimits = ADAPTIVE) -> BatchTimes:
    """What a warm-up leaves."""
    times, size = BatchTimes(), 1
    times.observe(1, seconds(1))
    while grows(times, limits):
        size *= 2
        times.observe(size, seconds(size))
    return times


def test_the_size_is_what_the_device_profits_from() -> None:
    assert batch_size(measured(parallel), ADAPTIVE) == 16
    assert batch_size(measured(serial), ADAPTIVE) == 1


def test_a_warm_up_measures_one_size_beyond_the_best_and_no_more() -> None:
    assert measured(parallel).largest == 32
    assert measured(serial).largest == 2


def test_a_batch_stays_within_the_latency_budget() -> None:
    tight = BatchLimits(64, 0.005, 1000, adaptive=True, latency_budget_seconds=0.003)
    times = BatchTimes()
    for size in (1, 2, 4, 8):
        times.observe(size, 0.001 + 0.0005 * size)

    assert batch_size(times, tight) == 4


def test_one_image_is_computed_whatever_the_budget() -> None:
    none = BatchLimits(64, 0.005, 1000, adaptive=True, latency_budget_seconds=0.001)

    assert batch_size(measured(serial, none), none) == 1


def test_times_that_change_while_running_change_the_size() -> None:
    times = measured(parallel)
    for _ in range(64):
        for size in (16, 32):
            times.observe(size, serial(size))

    assert batch_size(times, ADAPTIVE) < 16


def test_now_and_then_larger_sizes_are_tried() -> None:
    times = measured(serial)
    sizes = set()
    for _ in range(64):
        sizes.add(batch_size(times, ADAPTIVE))
        times.observe(1, serial(1))

    assert sizes == {1, 2, 4}


def test_a_trial_stays_within_the_latency_budget() -> None:
    short = BatchLimits(64, 0.005, 1000, adaptive=True, latency_budget_seconds=3 * serial(1))
    times = measured(serial, short)
    sizes = set()
    for _ in range(64):
        sizes.add(batch_size(times, short))
        times.observe(1, serial(1))

    assert sizes == {1, 2}


def test_a_size_that_does_not_pay_hides_none_that_does() -> None:
    def by_fours(size: int) -> float:
        return 0.03 * size if size < 4 else 0.02 * size

    times = measured(by_fours)
    assert batch_size(times, ADAPTIVE) == 1
    for _ in range(64):
        size = batch_size(times, ADAPTIVE)
        times.observe(size, by_fours(size))

    assert batch_size(times, ADAPTIVE) >= 4


def test_a_first_measurement_of_a_bad_moment_is_averaged_away() -> None:
    times = BatchTimes()
    times.observe(1, 0.03)
    times.observe(2, 0.12)
    for _ in range(3):
        times.observe(2, 0.04)

    assert times.seconds(2) == pytest.approx(0.06)


def test_what_was_never_measured_is_approached_by_doubling() -> None:
    times, sizes = BatchTimes(), []
    for _ in range(6):
        sizes.append(batch_size(times, ADAPTIVE))
        times.observe(sizes[-1], parallel(sizes[-1]))

    assert sizes == [1, 2, 4, 8, 16, 32]


def test_the_bounds_hold() -> None:
    small = BatchLimits(4, 0.005, 1000, adaptive=True)

    assert batch_size(measured(parallel, small), small) == 4
    assert batch_size(BatchTimes(), FIXED) == 64


@pytest.mark.parametrize("between", [math.inf, 1.0, 0.02])
def test_a_lone_request_leaves_at_once(between: float) -> None:
    times = measured(parallel)

    assert seconds_to_wait(1, 0.0, between, times, ADAPTIVE, busy=False) == 0


def test_it_waits_for_others_where_that_pays_and_no_longer_than_the_bound() -> None:
    times = measured(parallel)

    assert patience(4, 0.0001, times, ADAPTIVE) == pytest.approx(0.0012)
    assert patience(4, 0.001, times, ADAPTIVE) <= ADAPTIVE.max_delay_seconds


def test_it_never_waits_for_what_the_device_gains_nothing_from() -> None:
    assert patience(1, 0.0001, measured(serial), ADAPTIVE) == 0


def test_with_a_busy_device_it_waits_unless_the_batch_is_full() -> None:
    times = measured(parallel)

    assert seconds_to_wait(3, 9.0, 0.001, times, ADAPTIVE, busy=True) is None
    assert seconds_to_wait(16, 0.0, 0.001, times, ADAPTIVE, busy=True) == 0


def test_a_fixed_delay_counts_from_the_oldest() -> None:
    assert seconds_to_wait(1, 0.002, math.inf, BatchTimes(), FIXED, busy=False) == pytest.approx(0.003)
    assert seconds_to_wait(1, 0.006, math.inf, BatchTimes(), FIXED, busy=False) == 0


def test_sizes_between_measurements_are_interpolated() -> None:
    times = BatchTimes()
    times.observe(1, 1.0)
    times.observe(4, 4.0)

    assert [times.seconds(size) for size in (1, 2, 4, 8)] == [1.0, 2.0, 4.0, 8.0]


def test_arrivals_know_when_a_stream_has_ended() -> None:
    arrivals = Arrivals()
    assert arrivals.seconds_between(5.0) == math.inf
    for number in range(20):
        arrivals.observe(10 + number * 0.01, 1)

    assert arrivals.seconds_between(10.19) == pytest.approx(0.01)
    assert arrivals.seconds_between(12.19) == pytest.approx(2.0)


def test_the_times_of_the_version_that_serves_stand_in_for_what_was_not_measured() -> None:
    times, beside = BatchTimes(), measured(parallel)
    times.observe(1, 2 * parallel(1))
    times.adopt(beside)

    assert [times.seconds(size) for size in (1, 8, 16, 32)] == [2 * parallel(size) for size in (1, 8, 16, 32)]
    assert batch_size(times, ADAPTIVE) == batch_size(beside, ADAPTIVE)


def test_nothing_is_adopted_from_a_version_that_was_never_measured() -> None:
    times = BatchTimes()
    times.observe(1, 0.01)
    times.adopt(BatchTimes())

    assert (times.seconds(1), times.largest) == (0.01, 1)


def test_beside_another_version_only_short_batches_are_measured() -> None:
    slow, fast = measured(lambda size: 10 * parallel(size)), measured(parallel)

    assert [is_wanted(fast, ADAPTIVE, size, fast) for size in (2, 16, 64)] == [True, True, False]
    assert [is_wanted(slow, ADAPTIVE, size, slow) for size in (2, 16)] == [True, True]
    assert not is_wanted(measured(serial), ADAPTIVE, 2, fast)
    slower = measured(lambda size: 20 * parallel(size))
    assert not is_wanted(slower, ADAPTIVE, 2, slower)
