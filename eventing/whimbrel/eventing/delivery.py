"""Posts events to a sink by Knative's retry table, at most so many at once, and says what became of each."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Final

import httpx

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, binary
from whimbrel.core.errors import is_retried
from whimbrel.core.metrics import DELIVERY_ATTEMPTS, DELIVERY_SECONDS, SOURCE_IN_FLIGHT
from whimbrel.eventing.dead_letter_extensions import ATTEMPTS, ERROR_CODE, ERROR_DATA, ERROR_DESTINATION, MAX_ERROR_DATA
from whimbrel.eventing.patience import Presence, backoff, before_stop, pause, retry_after_seconds
from whimbrel.eventing.settings import DeliverySettings

CONNECT_SECONDS: Final = 5.0
NO_ANSWER: Final = 0
_BODY_LIMIT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 2xx: the sink has it."""

    attempts: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A status that no further try changes. `answer` is the head of the sink's body."""

    status: int
    answer: bytes
    attempts: int

    def dead_letter(self, event: Event, destination: str) -> Event:
        """The event as Knative's broker would send it to a dead-letter sink."""
        return event.with_extensions(
            {
                ERROR_DESTINATION: destination,
                ERROR_CODE: str(self.status),
                ERROR_DATA: base64.b64encode(self.answer[:MAX_ERROR_DATA]).decode(),
                ATTEMPTS: str(self.attempts),
            }
        )


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """No attempt succeeded, or the stop came first: the event has to come again."""

    reason: str
    attempts: int


Outcome = Accepted | Refused | NotDelivered


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes = b""
    retry_after: float | None = None
    fault: str = ""
    reached: bool = True


class Delivery:
    """One sink. `source` is its label in the metrics; `stopping` ends pauses, never a request in flight."""

    def __init__(
        self, client: httpx.AsyncClient, sink: str, settings: DeliverySettings, source: str, stopping: asyncio.Event
    ) -> None:
        self.sink = sink
        self._client = client
        self._settings = settings
        self._source = source
        self._stopping = stopping
        self._presence = Presence(f"sink {sink}", patience=3)  # one event that always fails is not an absent sink
        self._window = asyncio.Semaphore(settings.max_in_flight)

    async def deliver(self, event: Event) -> Outcome:
        """Post one event until it is accepted or refused, or the attempts are exhausted.

        A sink that cannot be reached is waited for without end: that says nothing about the event.
        """
        with tracing.span("source.deliver", tracing.carrier({}, event.extensions), event_id=event.id):
            return await self._until_answered(event)

    async def _until_answered(self, event: Event) -> Outcome:
        started = time.monotonic()
        traced = {} if tracing.TRACEPARENT in event.extensions else tracing.current()
        headers, body = binary(event.with_extensions({**traced, **self._settings.ce_overrides}))
        headers |= tracing.current()
        tries = attempts = 0
        while not self._stopping.is_set():
            answer = await self._post(headers, body)
            if answer is None:
                break
            tries += 1
            attempts += answer.reached
            if 200 <= answer.status < 300:
                DELIVERY_SECONDS.labels(self._source).observe(time.monotonic() - started)
                return Accepted(attempts)
            if answer.status and not is_retried(answer.status):
                return Refused(answer.status, answer.body, attempts)
            if attempts >= self._settings.delivery_attempts:
                return NotDelivered(answer.fault or f"the sink answered {answer.status}", attempts)
            await self._pause(tries, answer)
        return NotDelivered("stopping", attempts)

    async def _pause(self, tries: int, answer: _Answer) -> None:
        settings = self._settings
        seconds = backoff(tries, settings.backoff_seconds, settings.backoff_max_seconds, answer.retry_after)
        await pause(seconds, self._stopping)

    async def _post(self, headers: dict[str, str], body: bytes) -> _Answer | None:
        """One attempt; None when the stop came before its turn."""
        if not await before_stop(self._window.acquire(), self._stopping):
            return None
        try:
            with SOURCE_IN_FLIGHT.labels(self._source).track_inprogress():
                answer = await self._exchange(headers, body)
        finally:
            self._window.release()
        DELIVERY_ATTEMPTS.labels(self._source, str(answer.status)).inc()
        if answer.status == NO_ANSWER or answer.status >= 500:
            self._presence.missed(answer.fault or f"it answered {answer.status}")
        else:
            self._presence.answered()
        return answer

    async def _exchange(self, headers: dict[str, str], body: bytes) -> _Answer:
        longest = self._settings.sink_timeout_seconds
        timeout = httpx.Timeout(longest, connect=CONNECT_SECONDS, pool=None)
        request = self._client.stream("POST", self.sink, headers=headers, content=body, timeout=timeout)
        try:
            async with asyncio.timeout(longest + CONNECT_SECONDS), request as response:
                head = await _head(response)
                retry_after = retry_after_seconds(response.headers.get("retry-after"))
                return _Answer(response.status_code, head, retry_after)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return _Answer(NO_ANSWER, fault=f"no connection ({error})", reached=False)
        except (httpx.HTTPError, TimeoutError) as error:
            return _Answer(NO_ANSWER, fault=f"no answer ({type(error).__name__} {error})".replace(" )", ")"))


async def _head(response: httpx.Response) -> bytes:
    """The start of the body; a sink that answers without end is not read to it."""
    head = b""
    async for chunk in response.aiter_raw():
        head += chunk
        if len(head) > _BODY_LIMIT:
            break
    return head[:_BODY_LIMIT]
