"""Gates: how much harm a candidate may do, and whether what was seen says more, less, or nothing yet; pure.

Every measure is a harm, in [-1, 1], of the candidate against the champion: 0 where they are alike, above where the
candidate is worse. A gate has two limits. Its candidate *fails* once the evidence is that the mean harm is above
`allowed`, and *passes* once the evidence is that it is below `tolerance`; until then nothing is decided. Neither error
has a probability above the one asked for, however often one looks (`evidence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whimbrel.mlflow.rollout.evidence import Bet, interval

MAX_SAMPLES: Final = 100_000


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


def judge(
    gates: Mapping[Measure, Gate], harms: Mapping[Measure, Sequence[float]], alpha: float, least_samples: int = 1
) -> list[Verdict]:
    """One verdict a gate. With probability `alpha` at most, any gate fails of a candidate that keeps them all.

    Nothing passes on fewer than `least_samples`; what fails clearly fails at once.
    """
    verdicts = []
    for measure, gate in gates.items():
        values = harms.get(measure, ())[:MAX_SAMPLES]
        outcome = _outcome(gate, values, alpha / len(gates), alpha)
        if outcome is Outcome.PASSED and len(values) < least_samples:
            outcome = Outcome.UNDECIDED
        verdicts.append(_verdict(measure, gate, values, outcome, alpha))
    return verdicts


def overall(verdicts: Iterable[Verdict]) -> Outcome:
    """Failed as soon as one gate failed; passed when every one has."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAILED in outcomes:
        return Outcome.FAILED
    return Outcome.UNDECIDED if Outcome.UNDECIDED in outcomes else Outcome.PASSED


def paired_harms(
    champion: Sequence[Answer], candidate: Sequence[Answer], truth: Sequence[str | None], slow: float
) -> dict[Measure, list[float]]:
    """Harms of requests that both have answered, object by object in the same order; `truth` is None where unknown.

    `slow` in milliseconds, of `slow_above`.
    """
    harms: dict[Measure, list[float]] = {measure: [] for measure in Measure}
    for ours, theirs, label in zip(champion, candidate, truth, strict=True):
        if ours.failed and theirs.failed:
            continue  # the object's fault, or the store's
        harms[Measure.ERRORS].append(float(theirs.failed) - float(ours.failed))
        if ours.failed or theirs.failed:
            continue
        harms[Measure.LATENCY].append(float(theirs.milliseconds > slow) - float(ours.milliseconds > slow))
        harms[Measure.AGREEMENT].append(float(theirs.label != ours.label))
        if label is not None:
            harms[Measure.ACCURACY].append(float(ours.label == label) - float(theirs.label == label))
        if ours.score is not None and theirs.score is not None:
            harms[Measure.SCORE].append(ours.score - theirs.score)
    return harms


def live_harms(requests: Iterable[tuple[bool, Answer]], slow: float) -> dict[Measure, list[float]]:
    """Harms of live requests, each answered by one of the two: (by the candidate?, answer), in the order of time.

    Each answer of the candidate is held against the mean of the champion's since the candidate's last one, so what
    changes for both (load, the store, the hour) harms neither. `slow` in milliseconds, of `slow_above`.
    """
    harms: dict[Measure, list[float]] = {Measure.ERRORS: [], Measure.LATENCY: []}
    for answer, baseline in _against_champions(requests):
        harms[Measure.ERRORS].append(float(answer.failed) - _mean(float(each.failed) for each in baseline))
        answered = [each for each in baseline if not each.failed]
        if answered and not answer.failed:
            usual = _mean(float(each.milliseconds > slow) for each in answered)
            harms[Measure.LATENCY].append(float(answer.milliseconds > slow) - usual)
    return harms


def slow_above(milliseconds: Sequence[float]) -> float:
    """The 95th percentile: what is slower than the champion nearly ever is. Infinite without any."""
    if not milliseconds:
        return float("inf")
    return sorted(milliseconds)[min(len(milliseconds) - 1, int(0.95 * len(milliseconds)))]


def _outcome(gate: Gate, values: Sequence[float], alpha_failing: float, alpha_passing: float) -> Outcome:
    harm, safety = Bet(gate.allowed), Bet(-gate.tolerance)
    harm.add(values)
    safety.add(-value for value in values)
    if harm.rejects(alpha_failing):
        return Outcome.FAILED
    return Outcome.PASSED if safety.rejects(alpha_passing) else Outcome.UNDECIDED


def _verdict(measure: Measure, gate: Gate, values: Sequence[float], outcome: Outcome, alpha: float) -> Verdict:
    low, high = interval(values, alpha)
    return Verdict(
        measure=measure,
        outcome=outcome,
        samples=len(values),
        mean=_mean(values) if values else 0.0,
        low=low,
        high=high,
        **gate.model_dump(),
    )


def _against_champions(requests: Iterable[tuple[bool, Answer]]) -> Iterator[tuple[Answer, list[Answer]]]:
    """Each answer of the candidate, with the champion's since the one before; those with none at all are left out."""
    since: list[Answer] = []
    for by_candidate, answer in requests:
        if not by_candidate:
            since.append(answer)
        elif since:
            yield answer, since
            since = []


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
