"""The picture of a load test: latency and throughput over concurrency, and the latencies' histogram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest.report import Report
from whimbrel.loadtest.summary import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE_INCHES = (12.0, 4.2)
_LEAST_MS = 0.05  # where a bin that begins at 0 is drawn from: the axis is logarithmic
_PERCENTILE_COLOURS = {"p50": "tab:green", "p95": "tab:orange", "p99": "tab:red"}


def draw(report: Report, path: Path, before: Report | None = None) -> None:
    """A PNG at `path`; an earlier test is drawn dashed. Raises SettingsError without matplotlib."""
    try:
        figure = figure_of(report, before)
    except ModuleNotFoundError:
        raise SettingsError("expected matplotlib for a plot, seen none; pip install 'whimbrel[loadtest]'") from None
    figure.savefig(path, format="png", dpi=110)


def figure_of(report: Report, before: Report | None = None) -> Figure:
    """Three axes: latency and throughput over concurrency, histogram. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    latency_axes, throughput_axes, histogram_axes = figure.subplots(1, 3)
    for each, style in ((before, "--"), (report, "-")):
        _draw_latency(latency_axes, _answered(each), style)
        _draw_throughput(throughput_axes, _stages(each), style)
    _draw_histogram(histogram_axes, _answered(report))
    for axes in (latency_axes, throughput_axes):
        axes.set_xlabel("requests at once")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in (latency_axes, throughput_axes, histogram_axes):
        axes.set_ylim(bottom=0)  # last: it ends the fitting of the axis to what is drawn
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    earlier = "" if before is None else f"; dashed: {before.time:%Y-%m-%d %H:%M}"
    figure.suptitle(
        f"{report.target.host or report.target.url}, {report.time:%Y-%m-%d %H:%M} UTC{earlier}", fontsize=10
    )
    return figure


def _draw_latency(axes: Axes, stages: Sequence[Stage], style: str) -> None:
    for name, colour in _PERCENTILE_COLOURS.items():
        values = [stage.latency.percentiles[name] for stage in stages if stage.latency is not None]
        label = name if style == "-" else None
        axes.plot([stage.concurrency for stage in stages], values, style, color=colour, marker="o", ms=4, label=label)
    axes.set_ylabel("latency of what was answered, ms")


def _draw_throughput(axes: Axes, stages: Sequence[Stage], style: str) -> None:
    concurrencies = [stage.concurrency for stage in stages]
    label = "status 2xx" if style == "-" else None
    values = [stage.throughput for stage in stages]
    axes.plot(concurrencies, values, style, color="tab:blue", marker="o", ms=4, label=label)
    failed = [(stage.concurrency, stage.errors / stage.seconds) for stage in stages if stage.errors and stage.seconds]
    if failed and style == "-":
        axes.plot(*zip(*failed, strict=True), linestyle="none", marker="x", color="tab:red", label="errors")
    axes.set_ylabel("requests a second")


def _draw_histogram(axes: Axes, stages: Sequence[Stage]) -> None:
    for stage in stages:
        edges, shares = [max(_LEAST_MS, stage.histogram[0].above_ms)], []
        for each in stage.histogram:
            if each.above_ms > edges[-1]:  # bins that hold nothing are left out of the histogram
                edges.append(each.above_ms)
                shares.append(0.0)
            edges.append(each.to_ms)
            shares.append(100 * each.count / stage.answered)
        axes.stairs(shares, edges, linewidth=1.5, label=f"{stage.concurrency} at once")
    axes.set_xscale("log")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of answers")


def _stages(report: Report | None) -> list[Stage]:
    return sorted(report.stages if report else (), key=lambda stage: stage.concurrency)


def _answered(report: Report | None) -> list[Stage]:
    return [stage for stage in _stages(report) if stage.latency is not None]
