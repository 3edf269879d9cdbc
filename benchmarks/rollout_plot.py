"""One promotion as a picture, `rollout.png`: every request, by the version that answered it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

PICTURE = Path(__file__).parent / "rollout.png"
_COLOURS = ("#b8b8b8", "#2a6f97", "#c1121f")


def draw(answers: Sequence[tuple[float, float, str]], phases: Sequence[tuple[str, float]]) -> None:
    """`answers`: Unix time, milliseconds and version of each, empty where none came; `phases`: name and Unix time."""
    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    zero = phases[0][1]
    versions = list(dict.fromkeys(version for _, _, version in sorted(answers)))
    for version, colour in zip(versions, _COLOURS, strict=False):
        mine = [(at - zero, milliseconds) for at, milliseconds, each in answers if each == version]
        label = f"version {version}" if version else "no answer"
        axes.plot([at for at, _ in mine], [ms for _, ms in mine], ".", color=colour, markersize=4, label=label)
    for name, begin in phases:
        axes.axvline(begin - zero, color="black", linewidth=0.6, alpha=0.5)
        axes.annotate(name, (begin - zero, 1), xycoords=("data", "axes fraction"), rotation=45, fontsize=8)
    axes.set(xlabel="s", ylabel="ms", ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(PICTURE, dpi=100)
    pyplot.close(figure)
