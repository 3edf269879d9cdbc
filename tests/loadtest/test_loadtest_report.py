"""The record of a load test: kept as JSON, compared, drawn."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest import report
from whimbrel.loadtest.comparison import compare, differences
from whimbrel.loadtest.plot import draw, figure_of
from whimbrel.loadtest.report import Machine, Report, SentBody
from whimbrel.loadtest.rows import Rows
from whimbrel.loadtest.summary import Stage, summarise
from whimbrel.loadtest.targets import Target


def stage(concurrency: int, milliseconds: list[float], sent: int) -> Stage:
    seconds = np.array(milliseconds, dtype=np.float64) / 1000
    rows = Rows(seconds, np.full(len(seconds), 200, dtype=np.int64), np.zeros(len(seconds)))
    return summarise(rows, concurrency=concurrency, rate=None, sent=sent, seconds=1.0, cut=False)


def report_of(*stages: Stage, cpus: int = 2) -> Report:
    return Report(
        time=datetime(2026, 3, 1, 12, tzinfo=UTC),
        target=Target("http://127.0.0.1:8080/predict", host="digits.default.localhost"),
        method="POST",
        bodies=(SentBody("a.png", "image/png", 512),),
        machine=Machine(cpus, "Linux"),
        stages=stages,
    )


def test_a_report_is_read_back(tmp_path: Path) -> None:
    written = report_of(stage(1, [1.0, 2.0], sent=2), stage(8, [], sent=4))
    report.write(written, tmp_path / "a.json")
    assert report.to_json(report.read(tmp_path / "a.json")) == report.to_json(written)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "other"}', '{"schema": "whimbrel.dev/loadtest/v1", "time": 3}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SettingsError, match=r"expected a(n earlier)? load test's JSON"):
        report.read(tmp_path / "a.json")


def test_a_token_in_the_url_is_not_kept() -> None:
    signed = Report(
        datetime.now(UTC), Target("http://host/a?X-Amz-Signature=abcdef"), "GET", (), Machine(1, "Linux"), ()
    )
    assert "abcdef" not in json.dumps(report.to_json(signed))


def test_a_comparison_is_by_concurrency() -> None:
    before = report_of(stage(1, [10.0] * 10, sent=10), stage(2, [5.0], sent=1))
    now = report_of(stage(1, [5.0] * 20, sent=25), stage(4, [5.0], sent=1))
    (change,) = compare(now, before)
    assert (change.concurrency, change.p50, change.p99, change.throughput) == (1, 0.5, 0.5, 2.0)
    assert (change.errors_before, change.errors_now) == (0.0, 0.2)
    assert differences(now, before) == ["concurrencies: 1, 2 before, 1, 4 now"]


def test_a_comparison_without_answers_has_no_ratio() -> None:
    (change,) = compare(report_of(stage(1, [], sent=4)), report_of(stage(1, [], sent=4), cpus=64))
    assert (change.p50, change.throughput, change.errors_now) == (None, None, 1.0)


def test_a_machine_of_another_size_is_named() -> None:
    assert differences(report_of(), report_of(cpus=64)) == ["cores: 64 before, 2 now"]


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    before = report_of(stage(1, [1.0, 3.0], sent=2), stage(4, [4.0], sent=2))
    draw(report_of(stage(1, [1.0, 2.0, 90.0], sent=3), stage(4, [], sent=2)), tmp_path / "a.png", before)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        colours = picture.convert("RGB").getcolors(1 << 24)
    assert picture.size[0] > 1000
    assert colours is not None
    assert len(colours) > 50


@pytest.mark.parametrize("earlier", [False, True])
def test_a_plot_shows_all_that_was_measured(earlier: bool) -> None:
    now = report_of(stage(1, [1.0, 2.0, 90.0], sent=3), stage(4, [40.0] * 8, sent=9))
    figure = figure_of(now, report_of(stage(2, [150.0], sent=1)) if earlier else None)
    latency, throughput, histogram = figure.axes
    assert latency.get_ylim()[0] == throughput.get_ylim()[0] == 0
    assert 150 < latency.get_ylim()[1] < 300 if earlier else 90 < latency.get_ylim()[1] < 150
    assert 8 < throughput.get_ylim()[1] < 20
    assert 100 < histogram.get_ylim()[1] < 150
    assert latency.get_xlim()[1] > 4
