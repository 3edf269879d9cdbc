"""A version loaded again beside itself, warmed up and switched to, while clients go on asking."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from clients import Answered, asked, v2_binary
from predictor import plot
from predictor.measured import IMAGE, Setting, conditions
from predictor.process import load, predictor
from report import spread

from whimbrel.core.package import Package

SWAPS, CLIENTS = 3, 8


@dataclass
class Swapped:
    """`spans`: when each swap began and ended."""

    answers: list[Answered] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)


def section(setting: Setting) -> list[str]:
    seen = {name: _swapped(package, setting) for name, package in setting.packages.items()}
    picture = plot.draw_swaps({name: _drawn(swapped) for name, swapped in seen.items()})
    return [
        conditions(setting, f"{CLIENTS} clients all along, float32"),
        "",
        f"| Network | Requests | Failed | {SWAPS} swaps, s each | p99 before, ms | during, ms | during / before |",
        "|---|---|---|---|---|---|---|",
        *(row(name, swapped) for name, swapped in seen.items()),
        "",
        f"![Latency of requests around the swaps]({picture})",
    ]


def _swapped(package: Package, setting: Setting) -> Swapped:
    seen = Swapped()
    with predictor(package) as served:

        def swap() -> None:
            for number in range(SWAPS):
                began = time.perf_counter()
                load(served.port, package, str(number + 1))
                seen.spans.append((began, time.perf_counter()))
                time.sleep(0.7 * setting.seconds)

        seen.answers = asked(v2_binary(IMAGE), served.port, CLIENTS, 2 * setting.seconds, swap)
    return seen


def row(name: str, seen: Swapped) -> str:
    first = seen.spans[0][0]
    before = [each.seconds for each in seen.answers if each.at + each.seconds < first]
    during = [
        each.seconds
        for each in seen.answers
        if any(each.at < end and each.at + each.seconds >= begin for begin, end in seen.spans)
    ]
    failed = sum(answer.status != 200 for answer in seen.answers)
    p99 = [float(np.percentile(seconds, 99)) for seconds in (before, during)]
    seconds = spread([end - begin for begin, end in seen.spans], 2)
    return (
        f"| {name} | {len(seen.answers)} | {failed} | {seconds} | {1000 * p99[0]:.0f} | {1000 * p99[1]:.0f} | "
        f"{p99[1] / p99[0]:.2f} |"
    )


def _drawn(seen: Swapped) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds from the first request on, and ms."""
    zero = min(each.at for each in seen.answers)
    answers = [(each.at - zero, 1000 * each.seconds) for each in seen.answers]
    return answers, [(begin - zero, end - zero) for begin, end in seen.spans]
