"""hey's CSV, as it really wrote it, and the sums of all its rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.errors import Unavailable
from whimbrel.loadtest import summary
from whimbrel.loadtest.rows import Rows, joined, parse

HEY = Path(__file__).parent.parent / "data" / "hey"


def rows_of(milliseconds: list[float], status: int = 200) -> Rows:
    seconds = np.array(milliseconds, dtype=np.float64) / 1000
    return Rows(seconds, np.full(len(seconds), status, dtype=np.int64), np.zeros(len(seconds)))


def test_rows_of_mixed_statuses() -> None:
    rows = parse((HEY / "mixed.csv").read_text())
    assert {int(status): int((rows.statuses == status).sum()) for status in np.unique(rows.statuses)} == {
        200: 24, 404: 8, 503: 8,
    }  # fmt: skip
    assert 0.4 < rows.span_seconds < 0.6  # ten requests of each worker at 20 a second


def test_a_closed_port_is_a_header_without_rows() -> None:
    rows = parse((HEY / "closed-port.csv").read_text())
    assert (len(rows), rows.span_seconds) == (0, 0.0)


def test_no_output_is_no_rows() -> None:
    assert len(parse("")) == 0
    assert len(joined([])) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("response-time,DNS\n0.1,0.2\n", "expected the column 'status-code' in hey's CSV"),
        ("response-time,status-code,offset\n0.1,200,0.3\n0.1,OK,0.3\n", "something else in line 3"),
        ("response-time,status-code,offset\n0.1\n", "something else in line 2"),
    ],
)
def test_what_is_no_csv_of_hey_is_refused(text: str, message: str) -> None:
    with pytest.raises(Unavailable, match=message):
        parse(text)


def test_errors_are_what_was_sent_and_not_answered_with_success() -> None:
    stage = summary.summarise(
        parse((HEY / "mixed.csv").read_text()), concurrency=4, rate=80.0, sent=45, seconds=0.5, cut=False
    )
    assert (stage.answered, stage.succeeded, stage.unanswered, stage.errors) == (40, 24, 5, 21)
    assert stage.throughput == 48.0
    assert {status: found.count for status, found in stage.by_status.items()} == {200: 24, 404: 8, 503: 8}


def test_percentiles_are_nearest_ranks_of_all_rows() -> None:
    found = summary.latency(np.arange(1.0, 1001.0))
    assert found is not None
    assert found.percentiles == {"p50": 500.0, "p90": 900.0, "p95": 950.0, "p99": 990.0, "p99.9": 999.0}
    assert (found.min, found.max, found.mean) == (1.0, 1000.0, 500.5)


@given(st.lists(st.floats(0, 3.6e6), max_size=50))
def test_every_answer_is_in_one_bin(milliseconds: list[float]) -> None:
    bins = summary.histogram(np.array(milliseconds, dtype=np.float64))
    assert sum(each.count for each in bins) == len(milliseconds)
    assert all(left.to_ms <= right.above_ms for left, right in itertools.pairwise(bins))


def test_a_value_on_an_edge_belongs_below_it() -> None:
    found = summary.histogram(np.array([1.0, 0.0, 100.0]))
    assert [(each.to_ms, each.count) for each in found] == [(0.1, 1), (1.0, 1), (100.0, 1)]


@pytest.mark.parametrize("milliseconds", [[], [0.4, 12.5, 12.6, 800.0]])
def test_a_stage_survives_json(milliseconds: list[float]) -> None:
    stage = summary.summarise(
        rows_of(milliseconds), concurrency=2, rate=None, sent=6, seconds=1.5, cut=not milliseconds
    )
    document = json.loads(json.dumps(summary.as_json(stage), allow_nan=False))
    assert summary.as_json(summary.from_json(document)) == document
