"""Conditions under which a load test fails, as text: `p99>200ms,errors>0`; no I/O."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from whimbrel.core.errors import SettingsError
from whimbrel.loadtest.summary import PERCENTILES, Stage

LATENCIES = (*PERCENTILES, "mean", "max")
COUNTS = ("errors", "unanswered")
EXAMPLE = "p99>200ms,errors>0"

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"([a-z][a-z0-9.]*)\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*(ms|s|%|)")


@dataclass(frozen=True, slots=True)
class Gate:
    """`limit` is in ms for a latency, in percent of what was sent where `unit` is %, else a plain number."""

    measure: str
    comparison: str
    limit: float
    unit: str

    def __str__(self) -> str:
        return f"{self.measure}{self.comparison}{self.limit:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Breach:
    """`seen` is None where there was no answer to measure, which fails a gate on latency too."""

    gate: Gate
    concurrency: int
    seen: float | None

    def __str__(self) -> str:
        seen = "no answer to measure" if self.seen is None else f"{self.seen:g}{self.gate.unit}"
        return f"{self.gate}: seen {seen} at concurrency {self.concurrency}"


def parse(text: str) -> tuple[Gate, ...]:
    """Raises SettingsError that names the condition and what is allowed."""
    return tuple(_gate(part.strip()) for part in text.split(",") if part.strip())


def breaches(gates: Iterable[Gate], stages: Sequence[Stage]) -> list[Breach]:
    """Every gate that some stage meets."""
    found = [(gate, stage.concurrency, _seen(gate, stage)) for gate in gates for stage in stages]
    return [
        Breach(gate, concurrency, seen)
        for gate, concurrency, seen in found
        if seen is None or _OPERATORS[gate.comparison](seen, gate.limit)
    ]


def _gate(text: str) -> Gate:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise SettingsError(f"expected a condition such as {EXAMPLE!r}, seen {text!r}")
    measure, comparison, number, unit = match[1], match[2], float(match[3]), match[4]
    if measure in LATENCIES:
        if unit not in ("ms", "s"):
            raise SettingsError(f"expected {measure} with ms or s, seen {text!r}")
        return Gate(measure, comparison, number * (1000 if unit == "s" else 1), "ms")
    if measure not in (*COUNTS, "throughput"):
        known = ", ".join((*LATENCIES, *COUNTS, "throughput"))
        raise SettingsError(f"expected one of {known} in a condition, seen {measure!r}")
    if unit and (unit != "%" or measure not in COUNTS):
        raise SettingsError(f"expected {measure} as a plain number{' or %' * (measure in COUNTS)}, seen {text!r}")
    return Gate(measure, comparison, number, unit)


def _seen(gate: Gate, stage: Stage) -> float | None:
    if gate.measure == "throughput":
        return stage.throughput
    if gate.measure in COUNTS:
        count = stage.errors if gate.measure == "errors" else stage.unanswered
        return 100 * count / max(1, stage.sent) if gate.unit == "%" else float(count)
    if stage.latency is None:
        return None
    if gate.measure in PERCENTILES:
        return stage.latency.percentiles[gate.measure]
    return stage.latency.mean if gate.measure == "mean" else stage.latency.max
