"""The conditions of --fail-on."""

from __future__ import annotations

import numpy as np
import pytest

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest import gates
from whimbrel.loadtest.rows import Rows
from whimbrel.loadtest.summary import Stage, summarise


def stage(milliseconds: list[float], *, sent: int, concurrency: int = 1) -> Stage:
    seconds = np.array(milliseconds, dtype=np.float64) / 1000
    rows = Rows(seconds, np.full(len(seconds), 200, dtype=np.int64), np.zeros(len(seconds)))
    return summarise(rows, concurrency=concurrency, rate=None, sent=sent, seconds=2.0, cut=False)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("p99>200ms,errors>0", ["errors>0: seen 2 at concurrency 1"]),
        ("p99 >= 0.1s", ["p99>=100ms: seen 100 ms"]),
        ("p50>50ms", []),
        ("p50>=50ms", ["p50>=50ms"]),
        ("mean>55ms", []),
        ("max>99.9ms", ["max>99.9ms: seen 100ms"]),
        ("errors>16%", ["errors>16%: seen 16.6667% at concurrency 1"]),
        ("errors>17%", []),
        ("unanswered>1", ["unanswered>1: seen 2"]),
        ("throughput<6", ["throughput<6: seen 5"]),
        ("", []),
    ],
)
def test_conditions(text: str, broken: list[str]) -> None:
    found = gates.breaches(gates.parse(text), [stage([10.0 * i for i in range(1, 11)], sent=12)])
    assert len(found) == len(broken)
    for breach, start in zip(found, broken, strict=True):
        assert str(breach).replace(" ", "").startswith(start.replace(" ", ""))


def test_a_sweep_fails_where_one_concurrency_does() -> None:
    sweep = [stage([5.0], sent=1, concurrency=1), stage([50.0], sent=1, concurrency=8)]
    assert [str(each) for each in gates.breaches(gates.parse("p99>20ms"), sweep)] == [
        "p99>20ms: seen 50ms at concurrency 8"
    ]


def test_no_answer_at_all_fails_a_condition_on_latency() -> None:
    (breach,) = gates.breaches(gates.parse("p99>10s"), [stage([], sent=3)])
    assert str(breach) == "p99>10000ms: seen no answer to measure at concurrency 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99>200", "expected p99 with ms or s, seen 'p99>200'"),
        ("p98>200ms", "expected one of p50, .* in a condition, seen 'p98'"),
        ("errors>5ms", "expected errors as a plain number or %"),
        ("throughput<5%", "expected throughput as a plain number, seen"),
        ("p99=5ms", "expected a condition such as 'p99>200ms,errors>0', seen 'p99=5ms'"),
        ("errors>0;rm", "expected a condition"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        gates.parse(text)
