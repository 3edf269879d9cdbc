"""How an ensemble's members make one answer: averages, votes, and the digest of digests that it is known by; pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import PackageRefused
from whimbrel.core.package import digest_of_json
from whimbrel.core.tensors import INDICES, SCORES
from whimbrel.predictors.named_models import Rule
from whimbrel.predictors.network import Description, Outputs

SCHEMA = "whimbrel.dev/ensemble/v1"
_TASK = "classification"
_LABELS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Voice:
    """What one member said of all its classes, best first, and its part of the whole; the parts sum to 1."""

    outputs: Outputs
    share: Fraction


def combined(rule: Rule, voices: Sequence[Voice], classes: int, top_k: int) -> dict[str, NDArray[Any]]:
    """`indices` (N, k) and `scores` (N, k), best first: averaged scores, or the part of the votes.

    A member votes for its best label. Between labels with equal votes the averaged score decides, then the index.
    """
    averages = np.sum([float(voice.share) * _by_class(voice.outputs, classes) for voice in voices], axis=0)
    scores = averages if rule == "average" else _votes(voices, classes)
    order = np.lexsort((-averages, -scores), axis=-1)[:, :top_k]  # stable: equal ones stay by index
    return {INDICES: order, SCORES: np.take_along_axis(scores, order, axis=1)}


def _by_class(outputs: Outputs, classes: int) -> NDArray[np.float64]:
    """(N, k) by rank -> (N, classes) by index."""
    indices, scores = outputs[INDICES], outputs[SCORES]
    dense = np.zeros((len(indices), classes))
    np.put_along_axis(dense, indices[:, :classes], scores[:, :classes].astype(np.float64), axis=1)
    return dense


def _votes(voices: Sequence[Voice], classes: int) -> NDArray[np.float64]:
    votes = np.zeros((len(voices[0].outputs[INDICES]), classes))
    for voice in voices:
        votes[np.arange(len(votes)), voice.outputs[INDICES][:, 0]] += float(voice.share)
    return votes


@functools.lru_cache(maxsize=256)
def digest_of(rule: Rule, members: tuple[tuple[str, Fraction], ...]) -> str:
    """Of what the answers follow from: the rule, and the digest and share of each member, in whatever order."""
    listed = sorted((digest, str(share)) for digest, share in members)
    document = {
        "schema": SCHEMA,
        "rule": rule,
        "members": [{"digest": digest, "share": share} for digest, share in listed],
    }
    return digest_of_json(document)


def check_combines(ensemble: str, settled: tuple[str, Description], arriving: tuple[str, Description]) -> None:
    """Each of the two: whose version, and its description. Raises PackageRefused with what differs."""
    (first, ours), (other, theirs) = settled, arriving
    if theirs.task != _TASK:
        raise PackageRefused(f"ensemble {ensemble!r}: expected members for {_TASK}, seen {other} for {theirs.task}")
    differs = _difference(ours, theirs)
    if differs:
        raise PackageRefused(
            f"ensemble {ensemble!r}: expected members with the same labels and preset, seen {first} and {other} with "
            f"{differs}"
        )


def _difference(ours: Description, theirs: Description) -> str:
    if len(ours.labels) != len(theirs.labels):
        return f"{len(ours.labels)} and {len(theirs.labels)} labels"
    unlike = [place for place, pair in enumerate(zip(ours.labels, theirs.labels, strict=True)) if pair[0] != pair[1]]
    if unlike:
        pairs = (f"labels[{place}] {ours.labels[place]!r} and {theirs.labels[place]!r}" for place in unlike)
        return ", ".join([pair for pair, _ in zip(pairs, range(_LABELS_SHOWN), strict=False)])
    mine, other = (each.preset.model_dump(mode="json") for each in (ours, theirs))
    return ", ".join(f"preset.{name} {mine[name]!r} and {other[name]!r}" for name in mine if mine[name] != other[name])


def shares(weights: Mapping[str, Fraction]) -> dict[str, Fraction]:
    total = sum(weights.values(), Fraction(0))
    return {name: weight / total for name, weight in weights.items()}
