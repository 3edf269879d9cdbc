"""The number of processes that a load asks for, second by second."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.errors import InputRefused
from whimbrel.local.autoscaling import GROUP, Autoscaler, Scaling, read_scaling


def run(
    autoscaler: Autoscaler, load: Callable[[int], float], seconds: int, ready: int = 1, start: int = 0
) -> list[int]:
    """What is wanted after each second, when what is wanted is ready at once."""
    wanted = []
    for second in range(start, start + seconds):
        autoscaler.record(second, load(second))
        ready = autoscaler.decide(second, ready).wanted
        wanted.append(ready)
    return wanted


def test_a_steady_load_gets_what_it_needs() -> None:
    assert run(Autoscaler(Scaling(target=10)), lambda _: 35.0, 120)[-1] == 4


def test_idle_for_the_stable_window_it_goes_to_zero_and_not_before() -> None:
    autoscaler = Autoscaler(Scaling(target=10, stable_seconds=60))
    run(autoscaler, lambda _: 1.0, 30)

    wanted = run(autoscaler, lambda _: 0.0, 70, start=30)

    assert wanted[:58] == [1] * 58
    assert wanted[-1] == 0
    assert wanted.index(0) == 59


def test_a_process_that_nobody_has_asked_yet_has_a_window_too() -> None:
    wanted = run(Autoscaler(Scaling(stable_seconds=10)), lambda _: 0.0, 15)
    assert wanted == [1] * 10 + [0] * 5


def test_the_last_one_is_kept_for_the_retention_period() -> None:
    wanted = run(Autoscaler(Scaling(stable_seconds=10, retention_seconds=5)), lambda _: 0.0, 20)
    assert wanted == [1] * 15 + [0] * 5


def test_a_burst_is_a_panic_which_never_takes_away() -> None:
    autoscaler = Autoscaler(Scaling(target=10, stable_seconds=60))
    run(autoscaler, lambda _: 5.0, 60)

    wanted = run(autoscaler, lambda second: 60.0 if second < 70 else 5.0, 40, start=60)

    assert max(wanted[:10]) >= 5
    assert wanted == sorted(wanted)
    assert autoscaler.decide(100, wanted[-1]).panicking


def test_after_a_panic_it_goes_down_by_half_at_most() -> None:
    autoscaler = Autoscaler(Scaling(target=10, stable_seconds=10))
    high = run(autoscaler, lambda _: 160.0, 30)[-1]
    assert high == 16
    down = run(autoscaler, lambda _: 0.0, 40, ready=high, start=30)
    assert down[-1] == 0
    assert all(later >= earlier // 2 for earlier, later in zip([high, *down], down, strict=False) if earlier > 1)


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=100), st.integers(0, 3), st.integers(3, 9))
def test_it_stays_between_least_and_most(loads: list[float], least: int, most: int) -> None:
    wanted = run(Autoscaler(Scaling(least=least, most=most, target=7)), lambda second: loads[second], len(loads))
    assert all(least <= each <= most for each in wanted)


def test_a_delay_keeps_what_was_wanted_within_it() -> None:
    autoscaler = Autoscaler(Scaling(target=10, stable_seconds=6, panic_threshold=100, down_delay_seconds=20))
    run(autoscaler, lambda _: 40.0, 30)
    wanted = run(autoscaler, lambda _: 5.0, 70, ready=4, start=30)
    assert wanted[10] == 4
    assert wanted[-1] == 1


def test_the_annotations_are_knatives() -> None:
    found = read_scaling(
        {
            GROUP + "min-scale": "1",
            GROUP + "max-scale": "8",
            GROUP + "target": "8",
            GROUP + "window": "1m",
            GROUP + "target-utilization-percentage": "50",
        },
        limit=16,
        stable_seconds=30,
    )
    assert found == Scaling(least=1, most=8, target=4.0, limit=16, stable_seconds=60)
    assert read_scaling({}, limit=10, stable_seconds=30).target == 7.0
    assert read_scaling({}, limit=0, stable_seconds=30).target == 70.0
    assert read_scaling({GROUP + "metric": "rps"}, limit=5, stable_seconds=30).target == 140.0


@pytest.mark.parametrize(
    ("name", "value"), [("window", "soon"), ("window", "0s"), ("min-scale", "-1"), ("target", "many")]
)
def test_what_is_no_number_or_duration_is_refused_by_its_annotation(name: str, value: str) -> None:
    with pytest.raises(InputRefused, match=f"annotation {GROUP}{name}: expected .*, seen '{value}'"):
        read_scaling({GROUP + name: value}, limit=0, stable_seconds=30)
