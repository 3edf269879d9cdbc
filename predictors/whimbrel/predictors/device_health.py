"""Whether the device still computes: what readiness and liveness ask, and what the log says when that changes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from whimbrel.core.errors import Unavailable

_LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


class DeviceHealth:
    """`lost`: why it will not compute again in this process, as after a CUDA error that sticks; only a restart helps.

    A call that takes longer than `longest_call_seconds` counts as stuck for as long as it takes.
    """

    def __init__(self, longest_call_seconds: float) -> None:
        self._longest = longest_call_seconds
        self._begun: dict[int, float] = {}  # by thread; each writes its own
        self.lost: str | None = None

    @property
    def failing(self) -> str | None:
        """Why requests should not come here now; None while it computes."""
        return self.lost or self._stuck()

    @property
    def in_use(self) -> bool:
        return bool(self._begun)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around whatever a thread asks of the device."""
        thread = threading.get_ident()
        self._begun[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[thread]

    def lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            logger.error("not ready and not live any more: %s; the process has to be restarted", reason)

    def check(self) -> None:
        """Raises Unavailable while the device fails."""
        failing = self.failing
        if failing is not None:
            raise Unavailable(f"expected a device that computes, seen {failing}", retry_after_seconds=5)

    async def watch(self) -> None:
        """Say when a call is stuck, and when it has come back; until cancelled."""
        said: str | None = None
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._longest / 4))
            stuck = self._stuck()
            if stuck and not said:
                logger.error("not ready and not live: %s", stuck)
            elif said and not stuck:
                logger.warning("ready again after %s", said)
            said = stuck

    def _stuck(self) -> str | None:
        begun = min(list(self._begun.values()), default=None)
        if begun is None or time.monotonic() - begun <= self._longest:
            return None
        return f"a call to the device that takes longer than {self._longest:g} s"
