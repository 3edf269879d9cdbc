"""The loop of every source: receive, deliver in each key's order, and accept only what the sink accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused, TryAgain
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SOURCE_EVENTS
from whimbrel.core.redelivery import DELIVERIES
from whimbrel.eventing.delivery import Accepted, Delivery, NotDelivered, Outcome, Refused, dead_letter
from whimbrel.eventing.key_order import KeyOrder, Place
from whimbrel.eventing.patience import Presence, backoff, pause
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.unreadable import unreadable_event
from whimbrel.eventing.upstream import Message, Unreadable, Upstream

MAX_RETURN_SECONDS: Final = 900.0
_QUEUE_BACKOFF: Final = (0.2, 10.0)  # seconds: base, most
_LOOK_SECONDS: Final = 1.0  # between two looks whether what is held is still ours
_LAST_SECONDS: Final = 5.0  # for giving back what the grace did not suffice for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """One record of a message, its place in its key's line, and when the message came."""

    reading: Event | Unreadable
    place: Place | None
    started: float


class Source:
    """Joins one upstream to one sink; `stopping` begins the graceful stop.

    `dead_letters` takes what is refused, exhausted or unreadable. Where it is the sink itself, what that did not take
    is not sent there again: it stays with the upstream, less and less often tried.
    """

    def __init__(
        self,
        upstream: Upstream,
        delivery: Delivery,
        dead_letters: Delivery,
        settings: DeliverySettings,
        stopping: asyncio.Event,
    ) -> None:
        self._upstream = upstream
        self._delivery = delivery
        self._dead_letters = dead_letters
        self._settings = settings
        self._stopping = stopping
        self._max_held = max(2 * settings.max_in_flight, upstream.batch_size * upstream.receivers)
        self._presence = Presence(f"upstream {upstream.uri}")
        self._order = KeyOrder(stopping)
        self._held: dict[Hashable, Message] = {}  # by receipt: leases are kept for these
        self._reserved = 0  # places of receives under way
        self._freed = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._done: asyncio.Queue[Message] = asyncio.Queue()  # bounded by what is held
        self._accepted = SOURCE_EVENTS.labels(upstream.name, "accepted")

    async def run(self) -> None:
        """Until the stop, and through it: what is in flight is finished within the grace, the rest returned."""
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep_leases()), tasks.create_task(self._accept_done())]
            receivers = [tasks.create_task(self._receive()) for _ in range(self._upstream.receivers)]
            await self._stopping.wait()
            self._freed.set()
            await self._finish(receivers)
            for keeper in keepers:
                keeper.cancel()

    async def _receive(self) -> None:
        while not self._stopping.is_set():
            if not self._has_room():
                self._freed.clear()
                await self._freed.wait()
                continue
            self._reserved += self._upstream.batch_size
            try:
                messages = await self._next_messages()
            finally:
                self._reserved -= self._upstream.batch_size
            for message in messages:
                self._begin(message)

    def _begin(self, message: Message) -> None:
        """Its events join the lines of their keys now: in the order of receipt, whatever the tasks do."""
        self._held[message.receipt] = message
        started = time.monotonic()
        steps = [
            _Step(reading, None if isinstance(reading, Unreadable) else self._order.join(_key(reading)), started)
            for reading in self._read(message)
        ]
        task = asyncio.create_task(self._work_on(message, steps))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _read(self, message: Message) -> list[Event | Unreadable]:
        try:
            return self._upstream.read(message)
        except Exception as error:
            _log.exception("a message of %s could not be read", self._upstream.uri)
            return [Unreadable(message.body, InputRefused(f"expected a message, seen one that raised {error!r}"))]

    def _has_room(self) -> bool:
        return len(self._held) + self._reserved + self._upstream.batch_size <= self._max_held

    async def _next_messages(self) -> list[Message]:
        try:
            messages = await self._upstream.receive()
        except TryAgain as error:
            self._presence.missed(error)
            await pause(backoff(self._presence.missed_in_a_row, *_QUEUE_BACKOFF), self._stopping)
            return []
        self._presence.answered()
        return messages

    async def _work_on(self, message: Message, steps: Sequence[_Step]) -> None:
        try:
            if len(steps) == 1:
                unsettled = [await self._take(message, steps[0])]
            else:
                unsettled = await asyncio.gather(*(self._take(message, step) for step in steps))
        except Exception:
            _log.exception("a message could not be worked on; it goes back to %s", self._upstream.uri)
            unsettled = [1]
        rounds = max(unsettled, default=0)
        if not rounds:
            self._done.put_nowait(message)
            return
        try:
            await self._return(replace(message, deliveries=message.deliveries + rounds - 1))
        except Exception:  # its place must not be lost for that; a cancelled one is the stop's to give back
            _log.exception("a message could not be given back to %s", self._upstream.uri)
        self._release([message])

    async def _take(self, message: Message, step: _Step) -> int:
        """0 when this record needs nothing more: the sink, or the dead letters, accepted it; else the rounds tried."""
        if step.place is None:
            return await self._rounds(message, step)
        try:
            if not await step.place.turn():
                return 1
            return await self._rounds(message, step)
        finally:
            step.place.leave()

    async def _rounds(self, message: Message, step: _Step) -> int:
        rounds = 0
        while True:
            rounds += 1
            if not self._upstream.holds(message):
                return rounds
            if await self._settle(step.reading, message.deliveries + rounds - 1):
                return 0
            pause_seconds = self._return_delay(message.deliveries + rounds - 1)
            held_then = time.monotonic() - step.started + pause_seconds
            if held_then > self._upstream.hold_seconds or not await self._keep(message, pause_seconds):
                return rounds

    async def _keep(self, message: Message, seconds: float) -> bool:
        """Wait; whether the message is still ours then, and no stop came. What is lost is let go of at once."""
        until = time.monotonic() + seconds
        while self._upstream.holds(message) and not self._stopping.is_set():
            if (left := until - time.monotonic()) <= 0:
                return True
            await pause(min(left, _LOOK_SECONDS), self._stopping)
        return False

    async def _settle(self, reading: Event | Unreadable, deliveries: int) -> bool:
        if isinstance(reading, Unreadable):
            event = unreadable_event(reading, self._upstream.uri)
            return await self._bury(event, "unreadable", str(reading.error))
        with log_fields(event_id=reading.id, object=reading.subject):
            return await self._conclude(reading, await self._delivery.deliver(_marked(reading, deliveries)), deliveries)

    async def _conclude(self, event: Event, outcome: Outcome, deliveries: int) -> bool:
        if isinstance(outcome, Accepted):
            self._accepted.inc()
            return True
        has_dead_letters = self._dead_letters.sink != self._delivery.sink
        if isinstance(outcome, Refused):
            why = f"the sink answered {outcome.status}"
            if has_dead_letters:
                return await self._bury(self._dead_letter(event, outcome, deliveries), "refused", why)
            _log.error("refused, left to the queue (no dead_letter_sink is set): %s", why)
            return False
        if self._stopping.is_set():
            return False
        if has_dead_letters and deliveries >= self._settings.max_rounds and outcome.attempts:
            return await self._bury(self._dead_letter(event, outcome, deliveries), "exhausted", outcome.reason)
        SOURCE_EVENTS.labels(self._upstream.name, "returned").inc()
        _log.warning("not delivered, to be delivered again: %s", outcome.reason)
        return False

    def _dead_letter(self, event: Event, outcome: Refused | NotDelivered, deliveries: int) -> Event:
        attempts = (deliveries - 1) * self._settings.delivery_attempts + outcome.attempts
        return dead_letter(event, outcome, self._delivery.sink, attempts)

    async def _bury(self, event: Event, outcome: str, why: str) -> bool:
        """Hand an event that will never work to the dead letters; only when they have it is it done."""
        buried = await self._dead_letters.deliver(event)
        if isinstance(buried, Accepted):
            SOURCE_EVENTS.labels(self._upstream.name, outcome).inc()
            _log.warning("%s, now a dead letter: %s", outcome, why)
            return True
        if not self._stopping.is_set():
            _log.error("%s, left to the queue (the dead-letter sink: %s): %s", outcome, buried, why)
        return False

    def _return_delay(self, deliveries: int) -> float:
        return min(MAX_RETURN_SECONDS, self._settings.backoff_max_seconds * 2.0 ** min(deliveries - 1, 16))

    async def _return(self, message: Message) -> None:
        if self._stopping.is_set():
            # The stop interrupts a delivery and says nothing against it.
            return await self._give_back([self._held[message.receipt]], 0.0)
        delay = self._return_delay(message.deliveries)
        await self._give_back([replace(message, deliveries=message.deliveries + 1)], delay)

    async def _give_back(self, messages: Sequence[Message], delay: float) -> None:
        try:
            await self._upstream.give_back(messages, delay)
        except TryAgain as error:
            self._presence.missed(error)  # they come again when their lease ends

    def _release(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._held.pop(message.receipt, None)
        self._freed.set()

    async def _accept_done(self) -> None:
        """Accept what is done, as many at once as came meanwhile."""
        while True:
            messages = [await self._done.get()]
            while not self._done.empty():
                messages.append(self._done.get_nowait())
            await self._accept(messages)
            self._release(messages)
            for _ in messages:
                self._done.task_done()

    async def _accept(self, messages: Sequence[Message]) -> None:
        for tries in range(1, 1 << 30):
            try:
                return await self._upstream.accept(messages)
            except TryAgain as error:
                self._presence.missed(error)
                await asyncio.sleep(backoff(tries, *_QUEUE_BACKOFF))

    async def _keep_leases(self) -> None:
        lease = self._upstream.lease_seconds
        while lease is not None:
            await asyncio.sleep(lease / 3)
            try:
                await self._upstream.extend(list(self._held.values()))
            except TryAgain as error:
                self._presence.missed(error)

    async def _finish(self, receivers: Sequence[asyncio.Task[None]]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_seconds):
                await asyncio.wait(receivers)
                while self._work:
                    await asyncio.wait(self._work)
                await self._done.join()
        unfinished = [*receivers, *self._work]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if self._held:
            _log.warning("the grace is over: %d messages go back unfinished", len(self._held))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._give_back(list(self._held.values()), 0), _LAST_SECONDS)


def _key(event: Event) -> Hashable:
    return event.source, event.subject


def _marked(event: Event, deliveries: int) -> Event:
    """The first delivery goes as it came; a later one says so, and is looked up before it costs an inference."""
    return event if deliveries < 2 else event.with_extensions({DELIVERIES: str(deliveries)})
