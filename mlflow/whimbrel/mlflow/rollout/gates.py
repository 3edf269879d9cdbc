"""Gates: how much harm a candidate may do, and whether what was seen says more, less, or nothing yet; pure.

Every measure is a harm, in [-1, 1], of the candidate against the champion: 0 where they are alike, above where the
candidate is worse. A gate has two limits. Its candidate *fails* once the evidence is that the mean harm is above
`allowed`, and *passes* once the evidence is that it is below `tolerance`; until then nothing is decided. Neither error
has a probability above the one asked for, however often one looks (`evidence`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whimbrel.mlflow.rollout.evidence import Bet, interval


class Measure(StrEnum):
    """What a gate may be put on, and what one value of it is.

    accuracy: champion right - candidate right, on an object whose truth is known
    agreement: 1 where the candidate's label is another than the champion's
    score: the champion's best score - the candidate's
    errors: candidate failed - champion failed
    latency: candidate slow - champion slow, slow being above the champion's 95th percentile
    """

    ACCURACY = "accuracy"
    AGREEMENT = "agreement"
    SCORE = "score"
    ERRORS = "errors"
    LATENCY = "latency"


# What the same object gives again when it is asked again: each object is a witness once.
OF_THE_OBJECTS: Final = frozenset({Measure.ACCURACY, Measure.AGREEMENT, Measure.SCORE})

# How often each value of a measure was seen.
Harms = Mapping[Measure, Mapping[float, int]]


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


class Gate(BaseModel):
    """`allowed` and `tolerance` as the module says. The nearer they are, the more samples a decision takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    allowed: float = Field(ge=0, lt=1)
    tolerance: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _apart(self) -> Gate:
        if self.tolerance <= self.allowed:
            raise ValueError(f"tolerance: expected more than allowed, {self.allowed:g}, seen {self.tolerance:g}")
        return self


class Verdict(BaseModel):
    """What one gate says, and on what: the mean harm of `samples` values, and where it lies with the confidence asked
    for (`low` to `high`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure
    outcome: Outcome
    samples: int
    mean: float
    low: float
    high: float
    allowed: float
    tolerance: float

    def line(self) -> str:
        """`accuracy failed: 0.052 (0.021 to 0.083) of 460 samples, allowed 0.010, tolerated 0.040`."""
        seen = f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}) of {self.samples} samples"
        limits = f"allowed {self.allowed:.3f}, tolerated {self.tolerance:.3f}"
        return f"{self.measure} {self.outcome}: {seen}, {limits}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request. `label` and `score` of the best prediction; None where it `failed`, for `reason`."""

    label: str | None
    score: float | None
    milliseconds: float
    failed: bool = False
    reason: str | None = None


def judge(gates: Mapping[Measure, Gate], harms: Harms, alpha: float) -> list[Verdict]:
    """One verdict a gate. With probability `alpha` at most, any gate fails of a candidate that keeps them all."""
    verdicts = []
    for measure, gate in gates.items():
        seen = harms.get(measure, {})
        verdicts.append(_verdict(measure, gate, seen, _outcome(gate, seen, alpha / len(gates), alpha), alpha))
    return verdicts


def paired_harms(
    champion: Sequence[Answer], candidate: Sequence[Answer], truth: Sequence[str | None], slow: float
) -> dict[Measure, Counter[float]]:
    """Harms of requests that both have answered, object by object in the same order; `truth` is None where unknown.

    `slow` in milliseconds, of `slow_above`.
    """
    harms: dict[Measure, Counter[float]] = {measure: Counter() for measure in Measure}
    for ours, theirs, label in zip(champion, candidate, truth, strict=True):
        if ours.failed and theirs.failed:
            continue  # the object's fault, or the store's
        harms[Measure.ERRORS][float(theirs.failed) - float(ours.failed)] += 1
        if ours.failed or theirs.failed:
            continue
        harms[Measure.LATENCY][float(theirs.milliseconds > slow) - float(ours.milliseconds > slow)] += 1
        harms[Measure.AGREEMENT][float(theirs.label != ours.label)] += 1
        if label is not None:
            harms[Measure.ACCURACY][float(ours.label == label) - float(theirs.label == label)] += 1
        if ours.score is not None and theirs.score is not None:
            harms[Measure.SCORE][round(ours.score - theirs.score, 3)] += 1
    return harms


def slow_above(milliseconds: Sequence[float]) -> float:
    """The 95th percentile: what is slower than the champion nearly ever is. Infinite without any."""
    if not milliseconds:
        return float("inf")
    return sorted(milliseconds)[min(len(milliseconds) - 1, int(0.95 * len(milliseconds)))]


def _outcome(gate: Gate, seen: Mapping[float, int], alpha_failing: float, alpha_passing: float) -> Outcome:
    harm, safety = Bet(gate.allowed), Bet(-gate.tolerance)
    harm.add(seen)
    safety.add({-value: count for value, count in seen.items()})
    if harm.rejects(alpha_failing):
        return Outcome.FAILED
    return Outcome.PASSED if safety.rejects(alpha_passing) else Outcome.UNDECIDED


def _verdict(measure: Measure, gate: Gate, seen: Mapping[float, int], outcome: Outcome, alpha: float) -> Verdict:
    low, high = interval(seen, alpha)
    samples = sum(seen.values())
    return Verdict(
        measure=measure,
        outcome=outcome,
        samples=samples,
        mean=sum(value * count for value, count in seen.items()) / samples if samples else 0.0,
        low=low,
        high=high,
        **gate.model_dump(),
    )
