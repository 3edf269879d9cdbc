"""How often the judge of a rollout errs, and how soon it decides: simulated rollouts; `make bench-judge`.

Each rollout has the default policy's canary: at 20%, then at 50% of the traffic, known objects asked of both versions
all along. Its gates are looked at every two seconds, as the controller does.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Set as AbstractSet
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
from whimbrel.mlflow.rollout.live import LiveCounts, Requests
from whimbrel.mlflow.rollout.policy import Policy, seconds

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

ROLLOUTS: Final = int(os.environ.get("ROLLOUTS", "1000"))
RATES: Final = (1, 10, 100)  # live requests a second
KNOWN_OBJECTS: Final = 1000
DISAGREEMENT: Final = 0.06  # share of the known objects on which one is right and the other wrong
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

    def add(self, measure: Measure, harms: Counter[float]) -> None:
        self._failing[measure].add(harms)
        self._passing[measure].add({-harm: count for harm, count in harms.items()})

    @property
    def failed(self) -> bool:
        return any(bet.rejects(POLICY.alpha_of_each / len(self._failing)) for bet in self._failing.values())

    def passed(self, but: AbstractSet[Measure]) -> bool:
        return all(bet.rejects(POLICY.alpha_of_each) for measure, bet in self._passing.items() if measure not in but)


def simulate(drop: float, rate: float, seed: int) -> Ended:
    random, now = np.random.default_rng(seed), 0.0
    gates, live, totals, known = Gates(), LiveCounts("0", "1"), np.zeros(4, int), _known(random, drop)
    live.look(_requests(totals))
    deadline = seconds(POLICY.deadline)
    for step in POLICY.steps:
        begun, answers = now, 0
        while now < deadline:
            now += LOOK_SECONDS
            shadows = int(random.poisson(POLICY.shadows_per_second * LOOK_SECONDS))
            totals += _answered(random, rate * LOOK_SECONDS, step.percent / 100)
            before, errors = live.answers, Counter(live.errors)
            live.look(_requests(totals))
            answers += shadows + live.answers - before
            gates.add(Measure.ACCURACY, Counter(known[:shadows]))
            known = known[shadows:]
            gates.add(Measure.ERRORS, _unpaired(random, shadows, ERRORS) + live.errors - errors)
            gates.add(Measure.LATENCY, _unpaired(random, shadows, 0.05))
            if gates.failed:
                return Ended(False, step.percent, now, False)
            done = now - begun >= seconds(step.dwell) and answers >= step.samples
            if done and gates.passed(but={Measure.ACCURACY} if not known else set()):
                break
        else:
            return Ended(False, step.percent, now, True)
    return Ended(True, 100, now, False)


def _known(random: Generator, drop: float) -> list[float]:
    """Champion right less candidate right, of each known object; each is asked once."""
    worse, discordant = (DISAGREEMENT + drop) / 2, DISAGREEMENT
    return [1.0 if each < worse else -1.0 if each < discordant else 0.0 for each in random.random(KNOWN_OBJECTS)]


def _unpaired(random: Generator, count: int, share: float) -> Counter[float]:
    return Counter(float(ours) - float(theirs) for ours, theirs in random.random((count, 2)) < share)


def _answered(random: Generator, mean: float, share: float) -> NDArray[np.int_]:
    """Of live requests: answered and failed by the champion, answered and failed by the candidate."""
    given = [int(random.poisson(mean * part)) for part in (1 - share, share)]
    failed = [int(random.binomial(count, ERRORS)) for count in given]
    return np.array([given[0] - failed[0], failed[0], given[1] - failed[1], failed[1]])


def _requests(totals: NDArray[np.int_]) -> Requests:
    ours, our_failures, theirs, their_failures = map(int, totals)
    return {"replica": {"0": (ours, our_failures), "1": (theirs, their_failures)}}


def measure() -> list[tuple[str, int, list[Ended]]]:
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        return [
            (name, rate, list(processes.map(partial(simulate, drop, rate), range(ROLLOUTS), chunksize=25)))
            for name, drop in CANDIDATES.items()
            for rate in RATES
        ]


def table(cells: list[tuple[str, int, list[Ended]]]) -> str:
    lines = [
        f"{ROLLOUTS} simulated rollouts a line by the default canary; {KNOWN_OBJECTS} known objects, one right "
        f"and the other wrong on {DISAGREEMENT:.0%} of them; both fail {ERRORS:.1%} of requests. {machine()}",
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
