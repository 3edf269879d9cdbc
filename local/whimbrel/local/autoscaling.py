"""How many processes a revision is to have, by the rules of Knative's autoscaler; pure.

See knative.dev/docs/serving/autoscaling: the average concurrency (or requests a second) over a stable window, and over
a panic window that is a tenth of it, divided by what one process is to take. In a panic the number only grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from whimbrel.core.errors import InputRefused

GROUP = "autoscaling.knative.dev/"
_MAX_UP_RATE = 1000.0  # times the ready processes, at one decision
_MAX_DOWN_RATE = 2.0
_DEFAULT_CONCURRENCY = 100.0
_DEFAULT_RATE = 200.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Scaling:
    """`target` is what one process is to take on average; `limit` the hard limit of one, 0 for none."""

    least: int = 0
    most: int = 0  # 0: as many as the machine is allowed
    target: float = _DEFAULT_CONCURRENCY * 0.7
    limit: int = 0
    by_rate: bool = False
    stable_seconds: float = 60.0
    panic_share: float = 0.1
    panic_threshold: float = 2.0
    down_delay_seconds: float = 0.0
    retention_seconds: float = 0.0  # of the last process, beyond the stable window

    @property
    def panic_seconds(self) -> float:
        return max(self.stable_seconds * self.panic_share, 1.0)


def read_scaling(annotations: Mapping[str, str], limit: int, stable_seconds: float) -> Scaling:
    """From a revision's annotations, its containerConcurrency and the window that holds where none is given.

    Raises InputRefused, with the annotation, for what is no number or duration, and a window of no time.
    """
    window = _seconds(annotations, "window", stable_seconds)
    if window <= 0:
        seen = annotations.get(GROUP + "window", stable_seconds)
        raise InputRefused(f"annotation {GROUP}window: expected a duration above 0 such as 30s, seen {seen!r}")
    by_rate = annotations.get(GROUP + "metric", "concurrency") == "rps"
    utilization = _number(annotations, "target-utilization-percentage", 70.0) / 100
    default = _DEFAULT_RATE if by_rate else float(limit or _DEFAULT_CONCURRENCY)
    target = _number(annotations, "target", default)
    if limit and not by_rate:
        target = min(target, float(limit))
    return Scaling(
        least=int(_number(annotations, "min-scale", 0)),
        most=int(_number(annotations, "max-scale", 0)),
        target=max(target * utilization, 0.01),
        limit=limit,
        by_rate=by_rate,
        stable_seconds=window,
        panic_share=_number(annotations, "panic-window-percentage", 10) / 100,
        panic_threshold=_number(annotations, "panic-threshold-percentage", 200) / 100,
        down_delay_seconds=_seconds(annotations, "scale-down-delay", 0),
        retention_seconds=_seconds(annotations, "scale-to-zero-pod-retention-period", 0),
    )


@dataclass(frozen=True, slots=True)
class Decision:
    wanted: int
    panicking: bool


@dataclass
class Autoscaler:
    """The windows of one revision. `record` and `decide` are given the time, so that no clock is in here."""

    scaling: Scaling
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    _panic_since: float | None = None
    _panic_most: int = 0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _busy_until: float | None = None

    def record(self, now: float, load: float) -> None:
        """The average concurrency, or the requests a second, of the time since the last sample."""
        self._samples.append((now, load))
        while self._samples and self._samples[0][0] <= now - self.scaling.stable_seconds:
            self._samples.popleft()
        if load > 0 or self._busy_until is None:
            self._busy_until = now

    def decide(self, now: float, ready: int) -> Decision:
        """How many are wanted, given how many are ready."""
        scaling = self.scaling
        stable, panic = self._average(now, scaling.stable_seconds), self._average(now, scaling.panic_seconds)
        most, least = math.ceil(_MAX_UP_RATE * max(ready, 1)), math.floor(ready / _MAX_DOWN_RATE)
        by_stable = min(max(math.ceil(stable / scaling.target), least), most)
        by_panic = min(max(math.ceil(panic / scaling.target), least), most)
        wanted = self._panicked(now, ready, by_stable, by_panic)
        wanted = self._delayed(now, wanted)
        if wanted == 0 and not self._may_be_zero(now):
            wanted = 1
        wanted = max(wanted, scaling.least)
        return Decision(min(wanted, scaling.most) if scaling.most else wanted, self._panic_since is not None)

    def _panicked(self, now: float, ready: int, by_stable: int, by_panic: int) -> int:
        over = ready > 0 and by_panic / ready >= self.scaling.panic_threshold
        if over:
            if self._panic_since is None:
                self._panic_most = 0
            self._panic_since = now
        elif self._panic_since is not None and now - self._panic_since >= self.scaling.stable_seconds:
            self._panic_since = None
        if self._panic_since is None:
            return by_stable
        self._panic_most = max(self._panic_most, ready, by_stable, by_panic)
        return self._panic_most

    def _delayed(self, now: float, wanted: int) -> int:
        """With a delay, the most that was wanted within it."""
        delay = self.scaling.down_delay_seconds
        if delay <= 0:
            return wanted
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - delay:
            self._wanted.popleft()
        return max(count for _, count in self._wanted)

    def _may_be_zero(self, now: float) -> bool:
        """After a stable window without any request."""
        idle = 0.0 if self._busy_until is None else now - self._busy_until
        return idle >= self.scaling.stable_seconds + self.scaling.retention_seconds

    def _average(self, now: float, seconds: float) -> float:
        within = [load for at, load in self._samples if at > now - seconds]
        return sum(within) / len(within) if within else 0.0


def _number(annotations: Mapping[str, str], name: str, default: float) -> float:
    text = annotations.get(GROUP + name)
    if text is None:
        return default
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not 0 <= found < math.inf:
        raise InputRefused(f"annotation {GROUP}{name}: expected a number of at least 0, seen {text!r}")
    return found


def _seconds(annotations: Mapping[str, str], name: str, default: float) -> float:
    """A duration as Go writes it, of one unit: 30s, 1m, 500ms."""
    text = annotations.get(GROUP + name)
    if text is None:
        return default
    for unit in sorted(_UNITS, key=len, reverse=True):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * _UNITS[unit]
    raise InputRefused(f"annotation {GROUP}{name}: expected a duration such as 30s, seen {text!r}")
