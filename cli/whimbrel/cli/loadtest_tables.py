"""How a load test is printed: one row a concurrency, the comparison, and what to be wary of."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from whimbrel.cli.console import add_rows, table
from whimbrel.loadtest.comparison import Change
from whimbrel.loadtest.report import Report
from whimbrel.loadtest.summary import Stage

_FEW_ANSWERS = 100  # below it, p99 is one of the two slowest answers
_RATE_KEPT = 0.9


def stages_table(report: Report) -> Table:
    made = table("AT ONCE", "SENT", "2XX", "OTHER", "NO ANSWER", "2XX/S", "P50 MS", "P95 MS", "P99 MS", "MAX MS")
    return add_rows(made, [_row(stage) for stage in report.stages])


def comparison_table(changes: Sequence[Change], before: Report) -> Table:
    made = table("AT ONCE", "P50", "P99", "2XX/S", "ERRORS", title=f"now / {before.time:%Y-%m-%d %H:%M} UTC")
    return add_rows(
        made,
        [
            (
                change.concurrency,
                _times(change.p50),
                _times(change.p99),
                _times(change.throughput),
                f"{change.errors_before:.1%} -> {change.errors_now:.1%}",
            )
            for change in changes
        ],
    )


def statuses_line(stage: Stage) -> str:
    """What came of one concurrency, as it ends: `4 at once: 200 x 96, no answer x 4 (0.1 s)`."""
    counts = [f"{status} x {found.count}" for status, found in stage.by_status.items()]
    counts += [f"no answer x {stage.unanswered}"] if stage.unanswered else []
    return f"{stage.concurrency} at once: {', '.join(counts)} ({stage.seconds:.1f} s)"


def warnings(report: Report) -> list[str]:
    return [line for stage in report.stages for line in _warnings(stage)]


def _warnings(stage: Stage) -> list[str]:
    found, where = [], f"{stage.concurrency} at once"
    if stage.cut:
        found.append(f"{where}: stopped at the time limit; part of what has no answer may never have been sent")
    if stage.rate is not None and stage.seconds and stage.sent / stage.seconds < _RATE_KEPT * stage.rate:
        reached = stage.sent / stage.seconds
        found.append(f"{where}: sent {reached:.4g}/s of {stage.rate:g}/s; the service holds the workers up, add some")
    if 0 < stage.answered < _FEW_ANSWERS:
        found.append(f"{where}: {stage.answered} answers are few for a p99")
    return found


def _row(stage: Stage) -> tuple[object, ...]:
    counts = (stage.concurrency, stage.sent, stage.succeeded, stage.answered - stage.succeeded, stage.unanswered)
    if stage.latency is None:
        return (*counts, "0", "-", "-", "-", "-")
    percentiles = stage.latency.percentiles
    times = (percentiles["p50"], percentiles["p95"], percentiles["p99"], stage.latency.max)
    return (*counts, f"{stage.throughput:.4g}", *(f"{value:.1f}" for value in times))


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"x{ratio:.2f}"
