"""Live traffic as evidence: what each version has answered and failed, and how fast, held against the other; pure.

Counts are added up from the first look on, so a replica that began earlier, or one that starts anew, counts rightly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from whimbrel.mlflow.rollout.gates import slow_above

# By replica and version: answered, and failed by the server's fault, since that replica loaded that version.
Requests = Mapping[str, Mapping[str, tuple[int, int]]]
# By version: how often an answer took so many milliseconds.
Milliseconds = Mapping[str, Mapping[float, int]]

SETTLED: Final = 30  # answers of the champion, before anything counts as slow


@dataclass(frozen=True, slots=True)
class Live:
    """What a source of evidence says: `requests` so far, and how long those answered since the look before took, which
    are `fresh`."""

    requests: Requests = field(default_factory=dict)
    fresh: Milliseconds = field(default_factory=dict)


class LiveSource(Protocol):
    """Where live traffic can be seen: the results, or Prometheus. Both are of one champion and one candidate."""

    async def look(self) -> Live:
        """Raises Unavailable where it cannot be seen now: that is no evidence."""


class Growth:
    """How much counts have grown since the look before; one that fell was begun again, and a new one is a beginning."""

    def __init__(self) -> None:
        self._before: dict[Hashable, float] = {}

    def of(self, key: Hashable, now: float) -> float:
        before = self._before.get(key, now)
        self._before[key] = now
        return now if now < before else now - before


@dataclass
class LiveCounts:
    """Of one champion and one candidate. `errors`: how often candidate failed - champion failed was 1, 0 and -1."""

    champion: str
    candidate: str
    errors: Counter[float] = field(default_factory=Counter)
    answers: int = 0
    _growth: Growth = field(default_factory=Growth)
    _random: np.random.Generator = field(default_factory=np.random.default_rng)

    def look(self, requests: Requests) -> None:
        """What came since the look before, each request of the candidate held against one of the champion."""
        answered_0, failed_0 = self._since(requests, self.champion)
        answered, failed = self._since(requests, self.candidate)
        self.answers += answered + failed
        self.errors.update(paired(self._random, (failed_0, answered_0), (failed, answered)))

    def _since(self, requests: Requests, version: str) -> tuple[int, int]:
        """Added up over the replicas."""
        answered = failed = 0
        for replica, versions in requests.items():
            now = versions.get(version, (0, 0))
            answered += int(self._growth.of((replica, version, "answered"), now[0]))
            failed += int(self._growth.of((replica, version, "failed"), now[1]))
        return answered, failed


@dataclass
class LiveLatency:
    """Of one champion and one candidate. `slow`: how often candidate slow - champion slow was 1, 0 and -1, slow being
    above the 95th percentile of the champion's first answers."""

    champion: str
    candidate: str
    slow: Counter[float] = field(default_factory=Counter)
    _limit: float | None = None
    _settling: Counter[float] = field(default_factory=Counter)
    _random: np.random.Generator = field(default_factory=np.random.default_rng)

    def look(self, fresh: Milliseconds) -> None:
        """What sets the limit is not judged by it."""
        champion = fresh.get(self.champion, {})
        if self._limit is None:
            self._settling.update(champion)
            if self._settling.total() >= SETTLED:
                self._limit = slow_above(list(self._settling.elements()))
            return
        ours, theirs = (_above(each, self._limit) for each in (champion, fresh.get(self.candidate, {})))
        self.slow.update(paired(self._random, ours, theirs))


def paired(random: np.random.Generator, ours: tuple[int, int], theirs: tuple[int, int]) -> Counter[float]:
    """Requests of two versions held against each other, each (bad, good): how often theirs bad - ours bad was 1, 0, -1.

    Which against which is drawn: held against one baseline all of a look would err together, and the evidence counts
    each as a witness of its own. What finds no partner is left out.
    """
    pairs = min(sum(ours), sum(theirs))
    if not pairs:
        return Counter()
    bad_0 = int(random.hypergeometric(*ours, pairs))
    bad = int(random.hypergeometric(*theirs, pairs))
    both = int(random.hypergeometric(bad_0, pairs - bad_0, bad)) if bad else 0
    return Counter({1.0: bad - both, -1.0: bad_0 - both, 0.0: pairs - bad - bad_0 + 2 * both})


def _above(milliseconds: Mapping[float, int], limit: float) -> tuple[int, int]:
    slow = sum(count for value, count in milliseconds.items() if value > limit)
    return slow, sum(milliseconds.values()) - slow
