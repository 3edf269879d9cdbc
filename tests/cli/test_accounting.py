"""The demo's sums: what is missing, what came twice, what was refused without need."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from testbed.records import result_of
from whimbrel.cli.accounting import Tally, Upload, account
from whimbrel.core.results import DeadLetter, DeadLetterError, Result

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def recorded(key: str, *, label: str = "seven", milliseconds: int = 100) -> Result:
    return result_of(key, label=label).model_copy(update={"recorded": NOON + timedelta(milliseconds=milliseconds)})


def refused(message: str) -> DeadLetter:
    return DeadLetter(event={}, error=DeadLetterError(code=422, message=message), received=NOON)


SEVEN, EIGHT, BROKEN = Upload("7.png", "seven", NOON), Upload("8.png", "eight", NOON), Upload("b.png", None, NOON)


def test_everything_is_accounted_for() -> None:
    settled = account(
        [SEVEN, EIGHT, BROKEN],
        {"7.png": [recorded("7.png")], "8.png": [recorded("8.png", milliseconds=300)]},
        {"b.png": [refused("truncated")]},
    )
    assert settled.complete
    assert (settled.objects, settled.results, settled.right, settled.judged) == (3, 2, 1, 2)
    assert settled.accuracy == 0.5
    assert [(refusal.key, refusal.reason) for refusal in settled.refused] == [("b.png", "truncated")]
    assert settled.rate == pytest.approx(2 / 0.3)
    assert settled.percentile_ms(50) == pytest.approx(200)
    assert settled.versions == {"1": Tally(results=2, right=1, judged=2)}


def test_a_missing_object_is_named() -> None:
    settled = account([SEVEN, EIGHT], {"7.png": [recorded("7.png")]}, {})
    assert not settled.complete
    assert settled.missing == ("8.png",)


@pytest.mark.parametrize(
    ("results", "letters"),
    [
        ({"7.png": [recorded("7.png"), recorded("7.png")]}, {}),
        ({"7.png": [recorded("7.png")]}, {"7.png": [refused("late")]}),
        ({}, {"7.png": [refused("a"), refused("b")]}),
    ],
)
def test_what_came_twice_is_named(results: dict[str, list[Result]], letters: dict[str, list[DeadLetter]]) -> None:
    settled = account([SEVEN], results, letters)
    assert not settled.complete
    assert settled.twice == ("7.png",)


def test_a_good_object_that_was_refused_and_a_broken_one_that_was_not_are_unexpected() -> None:
    settled = account([SEVEN, BROKEN], {"b.png": [recorded("b.png")]}, {"7.png": [refused("why")]})
    assert not settled.complete
    assert set(settled.unexpected) == {"7.png", "b.png"}


def test_nothing_at_all_is_no_division_by_zero() -> None:
    settled = account([SEVEN], {}, {})
    assert (settled.accuracy, settled.rate) == (0.0, 0.0)
    assert math.isnan(settled.percentile_ms(50))
