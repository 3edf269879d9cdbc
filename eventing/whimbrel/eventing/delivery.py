"""Posts events to a sink by Knative's retry table, as many at once as it can take, and says what became of each."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, binary
from whimbrel.core.errors import is_retried
from whimbrel.core.metrics import DELIVERY_ATTEMPTS, DELIVERY_SECONDS, SOURCE_IN_FLIGHT, SOURCE_WINDOW
from whimbrel.eventing.dead_letter_extensions import ATTEMPTS, ERROR_CODE, ERROR_DATA, ERROR_DESTINATION, MAX_ERROR_DATA
from whimbrel.eventing.patience import Presence, backoff, pause, retry_after_seconds
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.window import Limit, Window

CONNECT_SECONDS: Final = 5.0
NO_ANSWER: Final = 0
_OVERLOAD: Final = frozenset({NO_ANSWER, 429, 503})
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


@dataclass(frozen=True, slots=True)
class NotDelivered:
    """No attempt succeeded, or the stop came first: the event has to come again.

    `attempts` counts those that reached the sink; status (0: it did not answer) and answer are the last one's.
    """

    reason: str
    attempts: int
    status: int = NO_ANSWER
    answer: bytes = b""


Outcome = Accepted | Refused | NotDelivered


def dead_letter(event: Event, failure: Refused | NotDelivered, destination: str, attempts: int) -> Event:
    """The event as Knative's broker would send it to a dead-letter sink: with the last error, and all attempts."""
    answer = failure.answer
    if not answer and isinstance(failure, NotDelivered):
        answer = json.dumps({"error": failure.reason, "reason": "Exhausted"}).encode()
    code = {ERROR_CODE: str(failure.status)} if failure.status else {}
    return event.with_extensions(
        {
            ERROR_DESTINATION: destination,
            ERROR_DATA: base64.b64encode(answer[:MAX_ERROR_DATA]).decode(),
            ATTEMPTS: str(attempts),
            **code,
        }
    )


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
        self, client: aiohttp.ClientSession, sink: str, settings: DeliverySettings, source: str, stopping: asyncio.Event
    ) -> None:
        self.sink = sink
        self._url = URL(sink, encoded=True)
        self._client = client
        self._settings = settings
        self._source = source
        self._stopping = stopping
        self._presence = Presence(f"sink {sink}", patience=3)  # one event that always fails is not an absent sink
        # No more than the sink answers within the grace: a stop shall not have to give back what is being answered.
        self._window = Window(Limit(settings.max_in_flight, settings.grace_seconds / 2), stopping)
        self._timeout = aiohttp.ClientTimeout(
            total=settings.sink_timeout_seconds + CONNECT_SECONDS, sock_connect=CONNECT_SECONDS
        )
        self._in_flight = SOURCE_IN_FLIGHT.labels(source)
        self._seconds = DELIVERY_SECONDS.labels(source)
        SOURCE_WINDOW.labels(source).set_function(lambda: self._window.limit.size)

    async def deliver(self, event: Event) -> Outcome:
        """Post one event until it is accepted or refused, or the attempts are exhausted.

        A sink that cannot be reached is waited for without end: that says nothing about the event.
        """
        if not tracing.enabled():
            return await self._until_answered(event)
        with tracing.span("source.deliver", tracing.carrier({}, event.extensions), event_id=event.id):
            return await self._until_answered(event)

    async def _until_answered(self, event: Event) -> Outcome:
        started = time.monotonic()
        headers, body = self._message(event)
        tries = attempts = 0
        answer = _Answer(NO_ANSWER)
        while await self._window.take():
            answer = await self._attempt(headers, body)
            tries += 1
            attempts += answer.reached
            if 200 <= answer.status < 300:
                self._seconds.observe(time.monotonic() - started)
                return Accepted(attempts)
            if answer.status and not is_retried(answer.status):
                return Refused(answer.status, answer.body, attempts)
            if attempts >= self._settings.delivery_attempts:
                fault = answer.fault or f"the sink answered {answer.status}"
                return NotDelivered(fault, attempts, answer.status, answer.body)
            await self._pause(tries, answer)
        return NotDelivered("stopping", attempts, answer.status, answer.body)

    def _message(self, event: Event) -> tuple[dict[str, str], bytes]:
        traced = {} if tracing.TRACEPARENT in event.extensions else tracing.current()
        added = {**traced, **self._settings.ce_overrides}
        headers, body = binary(event.with_extensions(added) if added else event)
        return headers | tracing.current(), body

    async def _pause(self, tries: int, answer: _Answer) -> None:
        settings = self._settings
        seconds = backoff(tries, settings.backoff_seconds, settings.backoff_max_seconds, answer.retry_after)
        await pause(seconds, self._stopping)

    async def _attempt(self, headers: dict[str, str], body: bytes) -> _Answer:
        """One request in a place of the window, which the answer widens or narrows."""
        started, full = time.monotonic(), self._window.full
        self._in_flight.inc()
        try:
            answer = await self._exchange(headers, body)
            if answer.status in _OVERLOAD:
                self._window.limit.overloaded(started, time.monotonic())
            else:
                self._window.limit.answered(started, time.monotonic(), full=full)
        finally:
            self._in_flight.dec()
            self._window.leave()
        DELIVERY_ATTEMPTS.labels(self._source, str(answer.status)).inc()
        if answer.status == NO_ANSWER or answer.status >= 500:
            self._presence.missed(answer.fault or f"it answered {answer.status}")
        else:
            self._presence.answered()
        return answer

    async def _exchange(self, headers: dict[str, str], body: bytes) -> _Answer:
        try:
            async with self._client.post(
                self._url, headers=headers, data=body, timeout=self._timeout, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300 and response.content.at_eof():
                    return _Answer(response.status)
                head = await _head(response)
                return _Answer(response.status, head, retry_after_seconds(response.headers.get("retry-after")))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return _Answer(NO_ANSWER, fault=f"no connection ({error})", reached=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _Answer(NO_ANSWER, fault=f"no answer ({type(error).__name__} {error})".replace(" )", ")"))


async def _head(response: aiohttp.ClientResponse) -> bytes:
    """The start of the body; a sink that answers without end is not read to it."""
    head = b""
    async for chunk in response.content.iter_any():
        head += chunk
        if len(head) > _BODY_LIMIT:
            response.close()
            break
    return head[:_BODY_LIMIT]


@asynccontextmanager
async def http_client() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections for as many requests as the windows let through."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"accept-encoding": "identity"},
    ) as client:
        yield client
