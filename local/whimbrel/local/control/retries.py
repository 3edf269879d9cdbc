"""When a step that failed is made again: after a second, then each time after twice as long, up to a minute.

Of an object that its user changes meanwhile it is made at once: it is known by its generation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from whimbrel.local.control.outcome import Tried

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float
    until: float


class Retries:
    """Times are of one clock of the caller's, in seconds."""

    def __init__(self) -> None:
        self._pauses: dict[Tried, _Pause] = {}

    def resting(self, now: float) -> frozenset[Tried]:
        """Those that are not to be tried yet."""
        return frozenset(each for each, pause in self._pauses.items() if pause.until > now)

    def note(self, rested: Collection[Tried], failed: Collection[Tried], now: float) -> float | None:
        """After a pass in which these rested and those failed: seconds until the first of the latter is due; None
        without any. What did neither has come to an end that is good."""
        kept = {each: self._pauses[each] for each in rested if each in self._pauses}
        for each in failed:
            before = self._pauses.get(each)
            seconds = FIRST_SECONDS if before is None else min(2 * before.seconds, LONGEST_SECONDS)
            kept[each] = _Pause(seconds, now + seconds)
        self._pauses = kept
        return min((kept[each].seconds for each in failed), default=None)
