"""The autoscaler's loop: looks at each revision's load every moment and says how many processes it is to have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from whimbrel.local.autoscaling import Autoscaler, Scaling
from whimbrel.local.control.outcome import RevisionPlan
from whimbrel.local.control.routing import Key
from whimbrel.local.ingress.replicas import Replicas

_TICK_SECONDS = 1.0
_TICKS_A_WINDOW = 12  # at least, where a window is short


class Scaler:
    """`changed` is called when `wanted` has changed."""

    def __init__(self, changed: Callable[[], None], *, max_waiting: int) -> None:
        self._changed = changed
        self._max_waiting = max_waiting
        self._replicas: dict[Key, Replicas] = {}
        self._autoscalers: dict[Key, Autoscaler] = {}
        self._wanted: dict[Key, int] = {}

    @property
    def wanted(self) -> dict[Key, int]:
        return dict(self._wanted)

    def replicas(self, key: Key, limit: int = 0) -> Replicas:
        """The places of a revision; the same ones as long as it is planned."""
        if key not in self._replicas:
            made = Replicas(key[1], limit=limit, most_waiting=self._max_waiting)
            made.wanted = lambda: self._woken(key)
            self._replicas[key] = made
        return self._replicas[key]

    def follow(self, plans: Sequence[RevisionPlan]) -> None:
        """These are the revisions now."""
        planned = {plan.key: plan for plan in plans}
        for key in [key for key in self._replicas if key not in planned]:
            for known in (self._replicas, self._autoscalers, self._wanted):
                known.pop(key, None)
        for key, plan in planned.items():
            self.replicas(key, plan.scaling.limit)
            if plan.fixed is not None:
                self._wanted.pop(key, None)
                self._autoscalers.pop(key, None)
            else:
                self._adopt(key, plan.scaling)

    def tick(self, now: float) -> None:
        """Sample and decide."""
        for key, autoscaler in self._autoscalers.items():
            replicas = self._replicas[key]
            concurrency, rate = replicas.sample(now)
            # What waits or is in work right now counts, however short the time since the last look.
            busy = max(concurrency, float(replicas.busy)) if replicas.ready == 0 else concurrency
            autoscaler.record(now, rate if autoscaler.scaling.by_rate else busy)
            self._set(key, autoscaler.decide(now, replicas.ready).wanted)

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            self.tick(clock())
            windows = [each.scaling.stable_seconds for each in self._autoscalers.values()]
            await asyncio.sleep(min([_TICK_SECONDS, *(window / _TICKS_A_WINDOW for window in windows)]))

    def _adopt(self, key: Key, scaling: Scaling) -> None:
        autoscaler = self._autoscalers.get(key)
        if autoscaler is None:
            self._autoscalers[key] = Autoscaler(scaling)
            # One that has processes keeps them for a window; one at zero stays there until it is asked.
            self._wanted[key] = max(scaling.least, self._replicas[key].ready)
        elif autoscaler.scaling != scaling:
            autoscaler.scaling = scaling

    def _woken(self, key: Key) -> None:
        """A request waits: at zero one process is wanted now, not at the next look."""
        if key in self._autoscalers and self._wanted.get(key, 0) == 0:
            self._set(key, 1)

    def _set(self, key: Key, wanted: int) -> None:
        if self._wanted.get(key) != wanted:
            self._wanted[key] = wanted
            self._changed()
