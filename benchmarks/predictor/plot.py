"""What the predictor's benchmark measured as pictures, beside the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

FOLDER = Path(__file__).parents[1]
OURS, BARE, PEER, BESIDE = "#2a6f97", "#8a8a8a", "#c9c9c9", "#f4d58d"


def draw_peers(rates: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]) -> str:
    """The file's name. `rates`: images/s by network, server and concurrency, round by round; the bare loop first."""
    figure, axes = pyplot.subplots(1, len(rates), figsize=(6.5 * len(rates), 5.5), squeeze=False)
    for axis, (name, servers) in zip(axes[0], rates.items(), strict=True):
        _bars(axis, name, servers)
    return _saved(figure, "predictor-peers.png")


def draw_swaps(
    swaps: Mapping[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]],
) -> str:
    """The file's name. By network: (second, latency in ms) of each request, and when each swap began and ended."""
    figure, axes = pyplot.subplots(1, len(swaps), figsize=(5.5 * len(swaps), 3.3), squeeze=False)
    for axis, (name, (answers, spans)) in zip(axes[0], swaps.items(), strict=True):
        _dots(axis, name, answers, spans)
    return _saved(figure, "predictor-swaps.png")


def _bars(axis: Any, name: str, servers: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """A group of bars a server, one bar a concurrency, with its least and most."""
    for place, (server, rates) in enumerate(servers.items()):
        colour = OURS if server.startswith("whimbrel") else PEER if place else BARE
        for number, rounds in enumerate(rates.values()):
            middle = statistics.median(rounds)
            spread = [[middle - min(rounds)], [max(rounds) - middle]]
            height, alpha = 0.8 / len(rates), 0.4 + 0.6 * (number + 1) / len(rates)
            top = place + (number - (len(rates) - 1) / 2) * height
            axis.barh(top, middle, height, xerr=spread, color=colour, alpha=alpha, capsize=2)
    axis.set_yticks(range(len(servers)), list(servers))
    axis.invert_yaxis()
    counts = ", ".join(str(clients) for clients in next(iter(servers.values())))
    axis.set(title=f"{name}: {counts} requests at once, from above", xlabel="images/s")


def _dots(axis: Any, name: str, answers: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> None:
    for number, (begin, end) in enumerate(spans):
        axis.axvspan(begin, end, color=BESIDE, label=None if number else "a version is loaded and switched to")
    axis.plot([at for at, _ in answers], [ms for _, ms in answers], ".", color=OURS, markersize=3)
    axis.set(title=f"{name}: latency of 8 clients", xlabel="s", ylabel="ms", ylim=(0, None))
    axis.legend(frameon=False, loc="upper left")


def _saved(figure: Any, name: str) -> str:
    figure.tight_layout()
    figure.savefig(FOLDER / name, dpi=100)
    pyplot.close(figure)
    return name
