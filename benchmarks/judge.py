"""How often the judge of a rollout errs, and how soon it decides: simulated rollouts; `make bench-judge`.

Each rollout has the default policy's canary: at 20%, then at 50% of the traffic, known objects asked of both versions
all along. Its gates are looked at every two seconds, as the controller does.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np
from report import machine, write_section

from whimbrel.mlflow.rollout.evidence import Bet
from whimbrel.mlflow.rollout.gates import Measure
from whimbrel.mlflow.rollout.policy import Policy, seconds

if TYPE_CHECKING:
    from numpy.random import Generator

ROLLOUTS: Final = int(os.environ.get("ROLLOUTS", "1000"))
RATES: Final = (1, 10, 100)  # live requests a second
CHAMPION_ACCURACY: Final = 0.95
DISAGREEMENT: Final = 0.06  # of the known objects, beyond what the drop itself makes
ERRORS: Final = 0.002
LOOK_SECONDS: Final = 2.0
POLICY: Final = Policy()
CANDIDATES: Final = {"equal": 0.0, "1 point worse": 0.01, "5 points worse": 0.05}
BEGIN, END = "<!-- judge: written by `make bench-judge` -->", "<!-- /judge -->"
PLOT: Final = Path(__file__).parent / "judge.png"


@dataclass(frozen=True)
class Ended:
    promoted: bool
    percent: int  # that it had reached
    seconds: float
    undecided: bool


class Gates:
    """The bets of `gates.judge`, kept from look to look: the same verdicts, without adding all up again."""

    def __init__(self) -> None:
        self._failing = {measure: Bet(gate.allowed) for measure, gate in POLICY.gates.items()}
        self._passing = {measure: Bet(-gate.tolerance) for measure, gate in POLICY.gates.items()}

    def add(self, measure: Measure, harms: list[float]) -> None:
        self._failing[measure].add(harms)
        self._passing[measure].add(-harm for harm in harms)

    @property
    def failed(self) -> bool:
        return any(bet.rejects(POLICY.alpha / len(self._failing)) for bet in self._failing.values())

    @property
    def passed(self) -> bool:
        return all(bet.rejects(POLICY.alpha) for bet in self._passing.values())


def simulate(drop: float, rate: float, seed: int) -> Ended:
    random, gates, now, answers = np.random.default_rng(seed), Gates(), 0.0, 0
    deadline = seconds(POLICY.deadline)
    for step in POLICY.steps:
        begun, answers = now, 0
        while now < deadline:
            now += LOOK_SECONDS
            shadows = int(random.poisson(POLICY.shadows_per_second * LOOK_SECONDS))
            live = int(random.poisson(rate * LOOK_SECONDS * step.percent / 100))
            answers += shadows + live
            gates.add(Measure.ACCURACY, _paired(random, shadows, drop))
            gates.add(Measure.ERRORS, _unpaired(random, shadows + live, ERRORS))
            gates.add(Measure.LATENCY, _unpaired(random, shadows, 0.05))
            if gates.failed:
                return Ended(False, step.percent, now, False)
            if now - begun >= seconds(step.dwell) and answers >= step.samples and gates.passed:
                break
        else:
            return Ended(False, step.percent, now, True)
    return Ended(True, 100, now, False)


def _paired(random: Generator, count: int, drop: float) -> list[float]:
    """Champion right less candidate right, of the same object."""
    drawn, worse = random.random(count), (DISAGREEMENT + drop) / 2
    discordant = max(DISAGREEMENT, drop)
    return [1.0 if each < worse else -1.0 if each < discordant else 0.0 for each in drawn]


def _unpaired(random: Generator, count: int, share: float) -> list[float]:
    return [float(ours) - float(theirs) for ours, theirs in random.random((count, 2)) < share]


def measure() -> list[tuple[str, int, list[Ended]]]:
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        return [
            (name, rate, list(processes.map(partial(simulate, drop, rate), range(ROLLOUTS), chunksize=25)))
            for name, drop in CANDIDATES.items()
            for rate in RATES
        ]


def table(cells: list[tuple[str, int, list[Ended]]]) -> str:
    lines = [
        f"{ROLLOUTS} simulated rollouts a line by the default policy; champion right on {CHAMPION_ACCURACY:.0%}, "
        f"both fail {ERRORS:.1%} of requests. {machine()}",
        "",
        "| candidate | requests/s | promoted | rolled back by a gate | before 50% | undecided at the deadline "
        "| minutes to the end, median (p95) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rate, ended in cells:
        times = sorted(each.seconds / 60 for each in ended)
        refused = [each for each in ended if not each.promoted and not each.undecided]
        shares = (
            sum(each.promoted for each in ended),
            len(refused),
            sum(each.percent < 50 for each in refused),
            sum(each.undecided for each in ended),
        )
        cells_of_line = " | ".join(f"{100 * share / len(ended):.1f}%" for share in shares)
        lines.append(
            f"| {name} | {rate} | {cells_of_line} | {median(times):.1f} ({times[int(0.95 * len(times))]:.1f}) |"
        )
    return "\n".join(lines)


def plot(cells: list[tuple[str, int, list[Ended]]]) -> None:
    """How many rollouts have ended after so many minutes, by candidate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, rate, ended in cells:
        times = np.sort([each.seconds / 60 for each in ended])
        style = {1: ":", 10: "--", 100: "-"}[rate]
        colour = f"C{list(CANDIDATES).index(name)}"
        axes.plot(times, np.arange(1, len(times) + 1) / len(times), style, color=colour, label=f"{name}, {rate}/s")
    axes.set(xlabel="minutes since the first step", ylabel="share of the rollouts that have ended", ylim=(0, 1))
    axes.legend(fontsize=8)
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    cells = measure()
    plot(cells)
    text = f"{table(cells)}\n\n![how soon rollouts end](judge.png)"
    write_section(BEGIN, END, text)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
