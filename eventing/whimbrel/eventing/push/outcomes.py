"""What became of the requests of the last minutes: one that comes again gets its outcome, not another delivery."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """`not_before` is None once the sink has accepted; else the moment from which another delivery may begin.

    `deliveries` counts that next one too.
    """

    not_before: float | None
    deliveries: int


class Outcomes:
    """At most `most` of them, the oldest forgotten first, each for `seconds` from when it may be delivered again."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._kept: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()

    def remember(self, identity: str, outcome: Outcome) -> None:
        self._kept.pop(identity, None)
        now = self._clock()
        self._kept[identity] = (max(now, outcome.not_before or now), outcome)  # a long pause must not outlive the count
        self._forget()

    def recall(self, identity: str) -> Outcome | None:
        self._forget()
        found = self._kept.get(identity)
        return found[1] if found else None

    def __len__(self) -> int:
        return len(self._kept)

    def _forget(self) -> None:
        oldest = self._clock() - self._seconds
        while self._kept and (len(self._kept) > self._most or next(iter(self._kept.values()))[0] <= oldest):
            self._kept.popitem(last=False)
