"""How long to wait before the next try, and saying once, not at every try, that something is away."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_log = logging.getLogger(__name__)


def backoff(tries: int, base_seconds: float, max_seconds: float, retry_after: float | None = None) -> float:
    """The pause after so many failed tries: exponential with full jitter, not below Retry-After; never over the most.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    # The exponent is bounded: 2.0**1024 overflows, and 2**64 times any base is past every maximum.
    ceiling = min(max_seconds, base_seconds * 2.0 ** min(max(tries - 1, 0), 64))
    drawn = random.uniform(0, ceiling)  # noqa: S311
    return min(max_seconds, max(drawn, retry_after or 0.0))


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """A Retry-After header, seconds or an HTTP date, as seconds from now; None where it is neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Sleep, but not into a stop."""
    await before_stop(asyncio.sleep(seconds), stopping)


async def before_stop(waiting: Coroutine[Any, Any, object], stopping: asyncio.Event) -> bool:
    """Whether `waiting` was over before the stop, which cancels it."""
    wait, stop = asyncio.create_task(waiting), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((wait, stop), return_when=asyncio.FIRST_COMPLETED)
        return wait.done()
    finally:
        wait.cancel()
        stop.cancel()


class Presence:
    """Whether a service answers, logged when that changes. `patience`: tries in a row that count as absence."""

    def __init__(self, service: str, patience: int = 1) -> None:
        self._service = service
        self._patience = patience
        self._missed = 0

    @property
    def missed_in_a_row(self) -> int:
        return self._missed

    def answered(self) -> None:
        if self._missed >= self._patience:
            _log.info("%s answers again", self._service)
        self._missed = 0

    def missed(self, error: object) -> None:
        self._missed += 1
        if self._missed == self._patience:
            _log.warning("%s is away, waiting for it: %s", self._service, error)
