"""Delivers one event to every trigger that wants it, with attempts, replies and dead letters; waits for them all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, binary
from whimbrel.core.errors import InputRefused, Unavailable, WhimbrelError
from whimbrel.core.logs import log_fields
from whimbrel.local.broker import metrics
from whimbrel.local.broker.config import Broker, Delivery, Trigger
from whimbrel.local.broker.delivery import (
    ERROR_DATA_BYTES,
    Accepted,
    Failed,
    Outcome,
    arrived,
    as_reply,
    attempts,
    dead_letter,
    for_subscriber,
    judge,
    wait_seconds,
)
from whimbrel.local.broker.filters import matches

logger = logging.getLogger(__name__)

MAX_REPLIES = 1000  # that one arriving event may cause, all hops and branches together


@dataclass
class Journey:
    """What one arriving event takes along: the broker's own address, passed-on headers, the replies still allowed."""

    broker_address: str
    headers: Mapping[str, str] = field(default_factory=dict)
    replies_left: int = MAX_REPLIES

    def count_reply(self) -> None:
        self.replies_left -= 1
        if self.replies_left < 0:
            raise InputRefused(f"one event caused more than {MAX_REPLIES} replies; filter the triggers by type")


@dataclass(frozen=True)
class Dispatcher:
    client: httpx.AsyncClient
    max_reply_bytes: int

    async def accept(self, broker: Broker, event: Event, journey: Journey) -> None:
        """Return when every matching trigger, or its dead-letter sink, has the event and the replies it caused.

        Raises InputRefused for an event that went round too often, Unavailable when a dead letter found no taker.
        """
        event = arrived(event, datetime.now(UTC))
        attributes = event.attributes()
        wanting = [trigger for trigger in broker.triggers if matches(trigger.filter, attributes)]
        # Every branch comes to its end before the first error is raised: none is cancelled half-way.
        ends = await asyncio.gather(
            *(self._to_trigger(broker, trigger, event, journey) for trigger in wanting), return_exceptions=True
        )
        for error in ends:
            if error is not None:
                raise error

    async def _to_trigger(self, broker: Broker, trigger: Trigger, event: Event, journey: Journey) -> None:
        came_from = tracing.carrier(journey.headers, event.extensions)
        with (
            log_fields(event_id=event.id, trigger=trigger.name),
            tracing.span("broker.deliver", came_from, trigger=trigger.name, event_id=event.id),
        ):
            outcome, made = await self._deliver(trigger, trigger.subscriber, for_subscriber(event), journey)
            destination = trigger.subscriber
            if isinstance(outcome, Accepted):
                if outcome.reply is None:
                    return
                try:
                    journey.count_reply()
                    await self.accept(broker, as_reply(outcome.reply, event), journey)
                    return
                except WhimbrelError as error:
                    outcome = Failed(f"its reply: {error}", status=error.status, body=json.dumps(error.body()).encode())
                    destination = journey.broker_address
            await self._to_dead_letters(trigger, dead_letter(event, destination, outcome, made), outcome, journey)

    async def _to_dead_letters(self, trigger: Trigger, letter: Event, failure: Failed, journey: Journey) -> None:
        name = f"trigger {trigger.namespace}/{trigger.name}"
        logger.warning("not delivered: %s", failure.reason, extra={"destination": trigger.subscriber})
        sink = trigger.delivery.dead_letter_sink
        if sink is None:
            raise Unavailable(f"{name} did not take event {letter.id!r} ({failure.reason}) and has no dead-letter sink")
        outcome, _ = await self._deliver(trigger, sink, letter, journey)
        metrics.DEAD_LETTERS.labels(trigger.name, "accepted" if isinstance(outcome, Accepted) else "refused").inc()
        if isinstance(outcome, Failed):
            logger.error("dead letter not delivered: %s", outcome.reason, extra={"destination": sink})
            raise Unavailable(
                f"{name} did not take event {letter.id!r} ({failure.reason}), nor did its dead-letter sink "
                f"({outcome.reason}); send it again"
            )

    async def _deliver(self, trigger: Trigger, destination: str, event: Event, journey: Journey) -> tuple[Outcome, int]:
        """The last outcome and the number of attempts made."""
        headers, body = binary(event)
        headers |= {**journey.headers, **tracing.current(), "prefer": "reply", "kn-namespace": trigger.namespace}
        allowed = attempts(trigger.delivery)
        for retries in range(allowed):
            outcome = await self._attempt(destination, headers, body, trigger.delivery)
            _count_attempt(trigger, outcome)
            if isinstance(outcome, Accepted) or not outcome.retried or retries + 1 == allowed:
                return outcome, retries + 1
            logger.info("attempt %d failed: %s", retries + 1, outcome.reason, extra={"destination": destination})
            await asyncio.sleep(wait_seconds(trigger.delivery, retries, outcome, datetime.now(UTC)))
        raise AssertionError("a delivery has at least one attempt")

    async def _attempt(self, destination: str, headers: Mapping[str, str], body: bytes, delivery: Delivery) -> Outcome:
        try:
            async with (
                asyncio.timeout(delivery.timeout_seconds),
                self.client.stream("POST", destination, content=body, headers=dict(headers)) as answer,
            ):
                limit = self.max_reply_bytes if answer.is_success else ERROR_DATA_BYTES
                answered = await _read(answer, limit)
        except TimeoutError:
            return Failed(f"no answer within {delivery.timeout_seconds:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Failed(f"no answer: {type(error).__name__} {error}")
        if answer.is_success and len(answered) > self.max_reply_bytes:
            return Failed(f"a reply of more than {self.max_reply_bytes} bytes")
        return judge(answer.status_code, answer.headers, answered)


async def _read(answer: httpx.Response, limit: int) -> bytes:
    """The body up to a little more than `limit` bytes; the rest is left unread."""
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _count_attempt(trigger: Trigger, outcome: Outcome) -> None:
    status = "accepted" if isinstance(outcome, Accepted) else str(outcome.status or 0)
    metrics.ATTEMPTS.labels(trigger.name, status).inc()
