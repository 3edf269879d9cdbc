"""Two load tests side by side, concurrency by concurrency; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from whimbrel.loadtest.report import Report
from whimbrel.loadtest.summary import Stage


@dataclass(frozen=True, slots=True)
class Change:
    """Ratios are now / before: 2.0 is twice. None where either side has no answer to measure."""

    concurrency: int
    rate: float | None
    p50: float | None
    p99: float | None
    throughput: float | None
    errors_before: float
    errors_now: float


def compare(now: Report, before: Report) -> tuple[Change, ...]:
    """One for each stage of `now` that `before` has too: the same concurrency at the same rate."""
    earlier = {(stage.concurrency, stage.rate): stage for stage in before.stages}
    return tuple(
        _change(stage, earlier[(stage.concurrency, stage.rate)])
        for stage in now.stages
        if (stage.concurrency, stage.rate) in earlier
    )


def differences(now: Report, before: Report) -> list[str]:
    """What else is not the same: each may be the reason for a change."""
    sides = {
        "target": (_target(before), _target(now)),
        "bodies": (_bodies(before), _bodies(now)),
        "cores": (str(before.machine.cpus), str(now.machine.cpus)),
        "machine": (before.machine.platform, now.machine.platform),
        "concurrencies": (_concurrencies(before), _concurrencies(now)),
    }
    return [f"{what}: {was} before, {is_now} now" for what, (was, is_now) in sides.items() if was != is_now]


def error_share(stage: Stage) -> float:
    """0 to 1; of nothing sent, 0."""
    return stage.errors / stage.sent if stage.sent else 0.0


def _change(now: Stage, before: Stage) -> Change:
    return Change(
        concurrency=now.concurrency,
        rate=now.rate,
        p50=_ratio(_percentile(now, "p50"), _percentile(before, "p50")),
        p99=_ratio(_percentile(now, "p99"), _percentile(before, "p99")),
        throughput=_ratio(now.throughput, before.throughput),
        errors_before=error_share(before),
        errors_now=error_share(now),
    )


def _percentile(stage: Stage, name: str) -> float | None:
    return None if stage.latency is None else stage.latency.percentiles[name]


def _ratio(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else now / before


def _target(report: Report) -> str:
    host = f" as {report.target.host}" if report.target.host else ""
    return f"{report.method} {report.target.url}{host}"


def _bodies(report: Report) -> str:
    return f"{len(report.bodies)} of {sum(body.bytes for body in report.bodies)} bytes in all"


def _concurrencies(report: Report) -> str:
    return ", ".join(str(stage.concurrency) for stage in report.stages)
