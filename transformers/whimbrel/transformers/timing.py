"""How long one image spent in which stage: for its result and for the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from whimbrel.core.metrics import TRANSFORMER_STAGE_SECONDS

FETCH, DECODE, PREDICT, ALL = "fetch", "decode", "predict", "all"


class Timing:
    """Starts when it is made. A stage that is entered again adds up; one inside another is the inner one's alone."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started, inner_before = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            inner = sum(self._seconds.values()) - inner_before
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started - inner

    def finish(self) -> dict[str, float]:
        """Milliseconds by stage, `all` among them, observed in the metrics once."""
        seconds = {**self._seconds, ALL: time.perf_counter() - self._started}
        for name, value in seconds.items():
            TRANSFORMER_STAGE_SECONDS.labels(name).observe(value)
        return {name: round(value * 1000, 3) for name, value in seconds.items()}
