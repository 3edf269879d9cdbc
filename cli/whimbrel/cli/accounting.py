"""What became of every object that was uploaded: the sums of the demo's table; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from whimbrel.core.results import DeadLetter, Result


@dataclass(frozen=True, slots=True)
class Upload:
    """One object that was put. `truth` is its label, None for one that is broken on purpose."""

    key: str
    truth: str | None
    started: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tally:
    """Results of one version: how many, and how many of those `judged`, whose truth is known, are right."""

    results: int = 0
    right: int = 0
    judged: int = 0

    @property
    def accuracy(self) -> float:
        return self.right / self.judged if self.judged else 0.0


@dataclass(frozen=True, slots=True)
class Account:
    """`missing` have neither a result nor a dead letter, `twice` more than one of them. Times in milliseconds."""

    objects: int
    results: int
    refused: tuple[Refusal, ...]
    missing: tuple[str, ...]
    twice: tuple[str, ...]
    unexpected: tuple[str, ...]
    right: int
    judged: int
    seconds: float
    latencies_ms: tuple[float, ...]
    versions: Mapping[str, Tally]

    @property
    def complete(self) -> bool:
        """Every object has a result or a dead letter, none twice, and only the broken ones were refused."""
        return not (self.missing or self.twice or self.unexpected)

    @property
    def accuracy(self) -> float:
        return self.right / self.judged if self.judged else 0.0

    @property
    def rate(self) -> float:
        """Results per second, from the first upload to the last result."""
        return self.results / self.seconds if self.seconds > 0 else 0.0

    def percentile_ms(self, percent: int) -> float:
        """From the start of the upload to the recorded result; nan without any."""
        if len(self.latencies_ms) < 2:
            return self.latencies_ms[0] if self.latencies_ms else float("nan")
        return statistics.quantiles(self.latencies_ms, n=100, method="inclusive")[percent - 1]


def account(
    uploads: Sequence[Upload], results: Mapping[str, Sequence[Result]], letters: Mapping[str, Sequence[DeadLetter]]
) -> Account:
    """Settle `uploads` against every recorded result and dead letter, both by object key."""
    by_key = {upload.key: upload for upload in uploads}
    answered = {key: results[key][0] for key in by_key if results.get(key)}
    refused = tuple(Refusal(key, _reason(letters[key][0])) for key in by_key if letters.get(key))
    latencies = tuple(
        (result.recorded - by_key[key].started).total_seconds() * 1000
        for key, result in answered.items()
        if result.recorded is not None
    )
    judged = {key: result for key, result in answered.items() if by_key[key].truth is not None}
    ends = [result.recorded for result in answered.values() if result.recorded is not None]
    return Account(
        objects=len(uploads),
        results=len(answered),
        refused=refused,
        missing=tuple(key for key in by_key if not results.get(key) and not letters.get(key)),
        twice=tuple(key for key in by_key if len(results.get(key, ())) + len(letters.get(key, ())) > 1),
        unexpected=tuple(
            key
            for key, upload in by_key.items()
            if bool(letters.get(key)) != (upload.truth is None) and (letters.get(key) or results.get(key))
        ),
        right=sum(result.predictions[0].label == by_key[key].truth for key, result in judged.items()),
        judged=len(judged),
        seconds=(max(ends) - min(upload.started for upload in uploads)).total_seconds() if ends else 0.0,
        latencies_ms=latencies,
        versions=_by_version(answered, by_key),
    )


def _by_version(answered: Mapping[str, Result], by_key: Mapping[str, Upload]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for key, result in answered.items():
        truth, tally = by_key[key].truth, found.get(result.model.version, Tally())
        right = truth is not None and result.predictions[0].label == truth
        found[result.model.version] = Tally(tally.results + 1, tally.right + right, tally.judged + (truth is not None))
    return found


def _reason(letter: DeadLetter) -> str:
    error = letter.error
    return error.message or error.reason or f"status {error.code}"
