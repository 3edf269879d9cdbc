"""Counts one request that a version was given, by what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from whimbrel.core.errors import WhimbrelError

CLIENT_LEFT = 499  # as nginx has it


@dataclass(slots=True)
class Tally:
    """`images`: 1 until the request is read."""

    images: int = 1


@contextmanager
def tallied(count: Callable[..., None]) -> Iterator[Tally]:
    """Around one request, before its version may leave. `count`: `VersionMetrics.count` for that version."""
    tally = Tally()
    try:
        yield tally
    except asyncio.CancelledError:
        count(status=CLIENT_LEFT, outcome="Left", images=tally.images)
        raise
    except Exception as error:
        known = error if isinstance(error, WhimbrelError) else None
        status, outcome = (known.status, known.reason) if known else (500, "Failed")
        count(status=status, outcome=outcome, images=tally.images)
        raise
    count(status=200, outcome="answered", images=tally.images)
