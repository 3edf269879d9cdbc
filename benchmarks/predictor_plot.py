"""What the predictor's benchmark measured as one picture, `predictor.png`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

PICTURE = Path(__file__).parent / "predictor.png"
OURS, BARE, BESIDE = "#2a6f97", "#b8b8b8", "#f4d58d"


def draw(
    throughput: Mapping[str, Mapping[int, tuple[Sequence[float], Sequence[float]]]],
    swaps: Mapping[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]],
) -> None:
    """`throughput`: images/s of ours and of the bare loop, round by round, by network and concurrency. `swaps`: by
    network, (second, latency in ms) of each request, and when each swap began and ended."""
    figure, axes = pyplot.subplots(2, len(throughput), figsize=(5.5 * len(throughput), 6.5), squeeze=False)
    for column, name in enumerate(throughput):
        _bars(axes[0][column], name, throughput[name])
        _dots(axes[1][column], name, *swaps[name])
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=100)
    pyplot.close(figure)


def _bars(axis: Any, name: str, rates: Mapping[int, tuple[Sequence[float], Sequence[float]]]) -> None:
    for offset, colour, label, which in ((-0.2, BARE, "bare loop", 1), (0.2, OURS, "whimbrel, REST", 0)):
        medians = [statistics.median(rounds[which]) for rounds in rates.values()]
        spread = [
            [middle - min(rounds[which]) for middle, rounds in zip(medians, rates.values(), strict=True)],
            [max(rounds[which]) - middle for middle, rounds in zip(medians, rates.values(), strict=True)],
        ]
        places = [place + offset for place in range(len(rates))]
        axis.bar(places, medians, 0.38, yerr=spread, color=colour, label=label, capsize=3)
    axis.set_xticks(range(len(rates)), [str(clients) for clients in rates])
    axis.set(title=f"{name}: throughput", xlabel="requests at once, one image each", ylabel="images/s")
    axis.legend(frameon=False)


def _dots(axis: Any, name: str, answers: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> None:
    for number, (begin, end) in enumerate(spans):
        axis.axvspan(begin, end, color=BESIDE, label=None if number else "a version is loaded and switched to")
    axis.plot([at for at, _ in answers], [ms for _, ms in answers], ".", color=OURS, markersize=3)
    axis.set(title=f"{name}: latency of 8 clients", xlabel="s", ylabel="ms", ylim=(0, None))
    axis.legend(frameon=False, loc="upper left")
