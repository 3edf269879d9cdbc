"""Pauses stay within their bounds, and absence is told once."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.eventing.patience import Presence, backoff, retry_after_seconds

NOW = datetime(2026, 1, 1, tzinfo=UTC)
positive = st.floats(0.001, 3600)


@given(st.integers(-5, 10**6), positive, positive, st.none() | st.floats(0, 1e12))
def test_a_pause_is_between_retry_after_and_the_most(
    tries: int, base: float, most: float, retry_after: float | None
) -> None:
    pause = backoff(tries, base, most, retry_after)
    assert min(most, retry_after or 0.0) <= pause <= most


@given(st.integers(1, 60), positive)
def test_the_ceiling_doubles(tries: int, base: float) -> None:
    assert backoff(tries, base, 1e30) <= base * 2.0 ** (tries - 1)


@given(st.text())
def test_any_retry_after_is_read_or_left(header: str) -> None:
    seconds = retry_after_seconds(header, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 10**6))
def test_retry_after_in_both_forms(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(str(seconds), NOW) == seconds
    assert retry_after_seconds(date, NOW) == seconds


def test_absence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    presence = Presence("sink x", patience=2)
    for missed in (True, False, True, True, True, False, False):
        if missed:
            presence.missed("no route")
        else:
            presence.answered()
    assert [record.message for record in caplog.records] == [
        "sink x is away, waiting for it: no route",
        "sink x answers again",
    ]
