"""Live traffic as evidence: from how many requests each version has answered and failed, by replica; pure.

Counts are added up from the first look on, so a replica that began earlier, or one that starts anew, counts rightly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# By replica and version: answered, and failed by the server's fault, since that replica loaded that version.
Requests = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass
class LiveCounts:
    """Of one champion and one candidate. `errors`: how often candidate failed - champion failed was 1, 0 and -1."""

    champion: str
    candidate: str
    errors: Counter[float] = field(default_factory=Counter)
    answers: int = 0
    _before: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _random: np.random.Generator = field(default_factory=np.random.default_rng)

    def look(self, requests: Requests) -> None:
        """What came since the look before, each request of the candidate held against one of the champion.

        Which against which is drawn: held against one baseline all of a look would err together, and the evidence
        counts each as a witness of its own. What finds no partner is left out.
        """
        answered_0, failed_0 = self._since(requests, self.champion)
        answered, failed = self._since(requests, self.candidate)
        self.answers += answered + failed
        pairs = min(answered + failed, answered_0 + failed_0)
        if not pairs:
            return
        ours = int(self._random.hypergeometric(failed_0, answered_0, pairs))
        theirs = int(self._random.hypergeometric(failed, answered, pairs))
        both = int(self._random.hypergeometric(ours, pairs - ours, theirs)) if theirs else 0
        self.errors.update({1.0: theirs - both, -1.0: ours - both, 0.0: pairs - theirs - ours + both})

    def _since(self, requests: Requests, version: str) -> tuple[int, int]:
        """Added up over the replicas; a count that fell was begun again."""
        total = 0, 0
        for replica, versions in requests.items():
            now = versions.get(version, (0, 0))
            known = (replica, version) in self._before
            before = self._before.get((replica, version), now)
            if now[0] < before[0] or now[1] < before[1]:
                before = 0, 0
            self._before[replica, version] = now
            if known:
                total = total[0] + now[0] - before[0], total[1] + now[1] - before[1]
        return total
