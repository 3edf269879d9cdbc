"""What was seen of the servers in one run, as tables: images a second, and ours as a ratio to the others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peers.catalog import KSERVE
from report import spread

CONCURRENCIES = (1, 8, 32)
BARE, NAIVE = "bare loop", KSERVE.name
OURS, AUTO, BY_CODE = "whimbrel", "whimbrel, dtype auto", "whimbrel, dtype auto, compiled"


@dataclass
class Seen:
    """Of one server. `asked`: by which protocol and form. `rates`: images/s by concurrency, one a round; `failure`:
    why there are none."""

    asked: str
    version: str = ""
    rates: dict[int, list[float]] = field(default_factory=dict)
    unanswered: int = 0
    failure: str | None = None


def said(seen: Seen) -> str:
    """Of the last round, for whoever watches."""
    if seen.failure is not None:
        return seen.failure
    return ", ".join(f"{rates[-1]:.1f}/s at {clients}" for clients, rates in seen.rates.items())


def rates_table(network: str, seen: Mapping[str, Seen]) -> list[str]:
    """Images a second of each server, or why there are none."""
    heads = " | ".join(f"images/s, {clients} at once" for clients in CONCURRENCIES)
    rows = [f"| {name}{_version(each)} | {_asked(each)} | {_rates(each)} |" for name, each in seen.items()]
    return [f"| {network} | Asked by | {heads} |", f"|---|---|{'---|' * len(CONCURRENCIES)}", *rows]


def ratios_table(network: str, seen: Mapping[str, Seen]) -> list[str]:
    """Ours to the bare loop, to the best peer at each concurrency and to the naive one, each within its round.

    Nothing where ours did not run.
    """
    running = {who: each.rates for who, each in seen.items() if each.failure is None}
    peers = [who for who in running if who != BARE and not who.startswith(OURS)]
    rows = []
    for ours in (who for who in running if who.startswith(OURS)):
        rows.append(_ratio_row(ours, BARE, running, dict.fromkeys(CONCURRENCIES, BARE)))
        if peers:
            best = {each: max(peers, key=lambda who: statistics.median(running[who][each])) for each in CONCURRENCIES}
            rows.append(_ratio_row(ours, "best peer", running, best))
        if NAIVE in running:
            rows.append(_ratio_row(ours, NAIVE, running, dict.fromkeys(CONCURRENCIES, NAIVE)))
    heads = " | ".join(f"{clients} at once" for clients in CONCURRENCIES)
    return [f"| {network}, ratios | {heads} |", f"|---|{'---|' * len(CONCURRENCIES)}", *rows] if rows else []


def _version(seen: Seen) -> str:
    return f" {seen.version}" if seen.version else ""


def _asked(seen: Seen) -> str:
    return f"{seen.asked} ({seen.unanswered} not answered)" if seen.unanswered else seen.asked


def _rates(seen: Seen) -> str:
    if seen.failure is not None:
        return " | ".join([seen.failure.replace("|", "/"), *["" for _ in CONCURRENCIES[1:]]])
    return " | ".join(spread(seen.rates[clients], 1) for clients in CONCURRENCIES)


def _ratio_row(
    ours: str, label: str, rates: Mapping[str, Mapping[int, Sequence[float]]], others: Mapping[int, str]
) -> str:
    cells = []
    for clients, other in others.items():
        pairs = zip(rates[ours][clients], rates[other][clients], strict=True)
        named = "" if other == label else f", {other}"
        cells.append(spread([our / their for our, their in pairs], 2) + named)
    return f"| {ours} / {label} | {' | '.join(cells)} |"
