"""The predictor's V2 REST against a bare loop over the same network, in turn every few seconds.

The bare loop computes batches as large as the concurrency, one after another: what the device gives.
"""

from __future__ import annotations

import statistics

from clients import asked, rate_of, v2_binary
from predictor.figures import CONCURRENCIES
from predictor.measured import IMAGE, Setting, bare, bare_network, conditions, each_network
from predictor.process import predictor
from report import spread

from whimbrel.core.package import Package


def section(setting: Setting) -> list[str]:
    rows = each_network(setting, lambda name, package: _rows(name, package, setting))
    return [
        conditions(setting, "float32, uint8 224 x 224 in, REST with binary tensors, clients on the same machine"),
        "",
        "| Network | Concurrency | images/s, whimbrel | bare loop | whimbrel / bare | ms over the bare call |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _rows(name: str, package: Package, setting: Setting) -> list[str]:
    network, form = bare_network(package), v2_binary(IMAGE)
    rows = []
    with predictor(package) as served:
        for clients in CONCURRENCIES:
            ours, alone, over = list[float](), list[float](), list[float]()
            for _ in range(setting.rounds):
                rate, seconds = bare(network, clients, setting.seconds)
                answers = asked(form, served.port, clients, setting.seconds)
                assert all(answer.status == 200 for answer in answers)
                alone.append(rate)
                ours.append(rate_of(answers))
                over.append(1000 * (statistics.median(answer.seconds for answer in answers) - seconds))
            rows.append(row(name, clients, ours, alone, over))
    network.close()
    return rows


def row(name: str, clients: int, ours: list[float], alone: list[float], over: list[float]) -> str:
    ratio = [our / other for our, other in zip(ours, alone, strict=True)]
    added = spread(over, 1) if clients == 1 else ""
    return f"| {name} | {clients} | {spread(ours, 1)} | {spread(alone, 1)} | {spread(ratio, 2)} | {added} |"
