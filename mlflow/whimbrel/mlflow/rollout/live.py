"""Live traffic as evidence: from how many requests each version has answered and failed, by replica; pure.

Counts are added up from the first look on, so a replica that began earlier, or one that starts anew, counts rightly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# By replica and version: answered, and failed by the server's fault, since that replica loaded that version.
Requests = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass
class LiveCounts:
    """Of one champion and one candidate. `errors` are the harms of the candidate's requests, in the order of time."""

    champion: str
    candidate: str
    errors: list[float] = field(default_factory=list)
    answers: int = 0
    _before: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _baseline: float | None = None

    def look(self, requests: Requests) -> None:
        """What came since the look before. Without any request of the champion so far, none of the candidate counts:
        there is nothing to hold it against."""
        answered, failed = self._since(requests, self.champion)
        if answered + failed:
            self._baseline = failed / (answered + failed)
        answered, failed = self._since(requests, self.candidate)
        self.answers += answered + failed
        if self._baseline is not None:
            self.errors += [1.0 - self._baseline] * failed + [-self._baseline] * answered

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
