"""Ours, a naive KServe predictor and the field's servers over the same weights, in turn, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from predictor import plot
from predictor.contenders import NAIVE, OURS, Contender, Seen, checks_of, contenders, measure
from predictor.measured import IMAGES, Setting, bare, bare_network, conditions
from report import spread

from whimbrel.core.package import Package

CONCURRENCIES = (1, 8, 32)
BARE = "bare loop"


def section(setting: Setting) -> list[str]:
    lines = [
        conditions(setting, "float32, uint8 224 x 224 in, one worker, batches of at most 32 that wait 10 ms at most"),
        "",
    ]
    drawn = {}
    for name, package in setting.packages.items():
        field = contenders()
        seen = _measured(package, field, setting)
        drawn[name] = {who: each.rates for who, each in seen.items() if each.failure is None}
        lines += [*table(name, field, seen), "", *ratios(seen), ""]
    return [*lines, f"![Images a second by server and concurrency]({plot.draw_peers(drawn)})"]


def _measured(package: Package, field: Sequence[Contender], setting: Setting) -> dict[str, Seen]:
    network = bare_network(package)
    checks = checks_of(network, IMAGES)
    seen = {BARE: Seen(), **{contender.name: Seen() for contender in field}}
    for number in range(setting.rounds):
        for clients in CONCURRENCIES:
            seen[BARE].rates.setdefault(clients, []).append(bare(network, clients, setting.seconds)[0])
        for contender in field:
            measure(contender, package, setting, clients=CONCURRENCIES, checks=checks, seen=seen[contender.name])
            print(f"{number + 1}/{setting.rounds} {contender.name}: {_said(seen[contender.name])}", flush=True)
    network.close()
    return seen


def _said(seen: Seen) -> str:
    if seen.failure is not None:
        return seen.failure
    return ", ".join(f"{clients}: {rates[-1]:.1f}/s" for clients, rates in seen.rates.items())


def table(name: str, field: Sequence[Contender], seen: Mapping[str, Seen]) -> list[str]:
    """Images a second of the bare loop and of each contender, or why there are none."""
    heads = " | ".join(f"images/s, {clients} at once" for clients in CONCURRENCIES)
    rows = [f"| {BARE} | none | {_cells(seen[BARE])} |"]
    for contender in field:
        each = seen[contender.name]
        version = f" {contender.version()}" if each.failure is None and contender.version() else ""
        rows.append(f"| {contender.name}{version} | {contender.asked}{_unanswered(each)} | {_cells(each)} |")
    return [f"| {name} | Asked by | {heads} |", f"|---|---|{'---|' * len(CONCURRENCIES)}", *rows]


def _unanswered(seen: Seen) -> str:
    return f" ({seen.unanswered} not answered)" if seen.unanswered else ""


def _cells(seen: Seen) -> str:
    if seen.failure is not None:
        return " | ".join([seen.failure.replace("|", "/"), *["" for _ in CONCURRENCIES[1:]]])
    return " | ".join(spread(seen.rates[clients], 1) for clients in CONCURRENCIES)


def ratios(seen: Mapping[str, Seen]) -> list[str]:
    """Of ours to the bare loop and to the peers, each within its round. Nothing where ours does not run."""
    running = {who: each.rates for who, each in seen.items() if each.failure is None}
    peers = [who for who in running if who not in (BARE, OURS)]
    if OURS not in running:
        return []
    heads = " | ".join(f"{clients} at once" for clients in CONCURRENCIES)
    rows = [_ratio_row(BARE, running, dict.fromkeys(CONCURRENCIES, BARE))]
    if peers:
        best = {each: max(peers, key=lambda who: statistics.median(running[who][each])) for each in CONCURRENCIES}
        rows.append(_ratio_row("best peer", running, best))
    if NAIVE in running:
        rows.append(_ratio_row(NAIVE, running, dict.fromkeys(CONCURRENCIES, NAIVE)))
    return [f"| {OURS} / | {heads} |", f"|---|{'---|' * len(CONCURRENCIES)}", *rows]


def _ratio_row(label: str, rates: Mapping[str, Mapping[int, Sequence[float]]], others: Mapping[int, str]) -> str:
    cells = []
    for clients, other in others.items():
        pairs = zip(rates[OURS][clients], rates[other][clients], strict=True)
        named = "" if other == label else f", {other}"
        cells.append(spread([ours / theirs for ours, theirs in pairs], 2) + named)
    return f"| {label} | {' | '.join(cells)} |"
