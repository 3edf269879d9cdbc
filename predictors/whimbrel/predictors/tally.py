"""Counts one request that a version was given, by what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from whimbrel.core.errors import WhimbrelError
from whimbrel.predictors.version_metrics import SERVERS_FAULT

CLIENT_LEFT = 499  # as nginx has it


@dataclass(slots=True)
class Tally:
    """`images`: 1 until the request is read. `counts`: False where it came to nothing by no fault and no wish of its
    own."""

    images: int = 1
    counts: bool = True


@contextmanager
def tallied(count: Callable[..., None], digest: str) -> Iterator[Tally]:
    """Around one request, before its version may leave. `count`: `VersionMetrics.count` for that version; `digest`: of
    its package, which a failure by the server's fault names."""
    tally, begun = Tally(), time.monotonic()
    try:
        yield tally
    except asyncio.CancelledError:
        if tally.counts:
            count(status=CLIENT_LEFT, outcome="Left", images=tally.images)
        raise
    except Exception as error:
        known = error if isinstance(error, WhimbrelError) else None
        status, outcome = (known.status, known.reason) if known else (500, "Failed")
        count(status=status, outcome=outcome, images=tally.images)
        if known is not None and status >= SERVERS_FAULT and known.model_digest is None:
            known.model_digest = digest
        raise
    count(status=200, outcome="answered", images=tally.images, seconds=time.monotonic() - begun)
