"""The loop of every source: receive, deliver in each key's order, and accept only what the sink accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Hashable, Sequence
from typing import Final

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import TryAgain
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SOURCE_EVENTS
from whimbrel.eventing.delivery import Accepted, Delivery, NotDelivered, Outcome, Refused
from whimbrel.eventing.key_order import KeyOrder
from whimbrel.eventing.patience import Presence, backoff, pause
from whimbrel.eventing.unreadable import unreadable_event
from whimbrel.eventing.upstream import Message, Unreadable, Upstream

MAX_RETURN_SECONDS: Final = 900.0
_QUEUE_BACKOFF: Final = (0.2, 10.0)  # seconds: base, most
_LAST_SECONDS: Final = 5.0  # for giving back what the grace did not suffice for

_log = logging.getLogger(__name__)


class Source:
    """Joins one upstream to one sink. At most `max_held` messages are in work; `stopping` begins the graceful stop.

    `dead_letters` takes what is refused or unreadable. Where it is the sink itself, what that refused once is not
    sent there again: it goes back to the upstream, whose own redrive policy decides.
    """

    def __init__(
        self,
        upstream: Upstream,
        delivery: Delivery,
        dead_letters: Delivery,
        *,
        max_held: int,
        return_seconds: float,
        grace_seconds: float,
        stopping: asyncio.Event,
    ) -> None:
        self._upstream = upstream
        self._delivery = delivery
        self._dead_letters = dead_letters
        self._max_held = max(max_held, upstream.batch_size * upstream.receivers)
        self._return_seconds = return_seconds
        self._grace_seconds = grace_seconds
        self._stopping = stopping
        self._presence = Presence(f"upstream {upstream.uri}")
        self._order = KeyOrder()
        self._held: dict[Hashable, Message] = {}  # by receipt: leases are kept for these
        self._reserved = 0  # places of receives under way
        self._freed = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._done: asyncio.Queue[Message] = asyncio.Queue()  # bounded by what is held

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
                self._held[message.receipt] = message
                task = asyncio.create_task(self._work_on(message))
                self._work.add(task)
                task.add_done_callback(self._work.discard)

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

    async def _work_on(self, message: Message) -> None:
        try:
            readings = self._upstream.read(message)
            done = await asyncio.gather(*(self._take(reading) for reading in readings))
        except Exception:
            _log.exception("a message could not be worked on; it goes back to %s", self._upstream.uri)
            done = [False]
        if all(done):
            self._done.put_nowait(message)
        else:
            await self._return(message)

    async def _take(self, reading: Event | Unreadable) -> bool:
        """Whether this record needs nothing more: the sink, or the dead letters, accepted it."""
        if isinstance(reading, Unreadable):
            event = unreadable_event(reading, self._upstream.uri)
            return await self._bury(event, "unreadable", str(reading.error))
        with log_fields(event_id=reading.id, object=reading.subject):
            async with self._order.turn((reading.source, reading.subject), self._stopping) as taken:
                outcome = await self._delivery.deliver(reading) if taken else NotDelivered("stopping", 0)
            return await self._conclude(reading, outcome)

    async def _conclude(self, event: Event, outcome: Outcome) -> bool:
        if isinstance(outcome, Accepted):
            SOURCE_EVENTS.labels(self._upstream.name, "accepted").inc()
            return True
        if isinstance(outcome, Refused):
            why = f"the sink answered {outcome.status}"
            if self._dead_letters.sink == self._delivery.sink:
                _log.error("refused, left to the queue (no dead_letter_sink is set): %s", why)
                return False
            return await self._bury(outcome.dead_letter(event, self._delivery.sink), "refused", why)
        SOURCE_EVENTS.labels(self._upstream.name, "returned").inc()
        if not self._stopping.is_set():
            _log.warning("not delivered, to be delivered again: %s", outcome.reason)
        return False

    async def _bury(self, event: Event, outcome: str, why: str) -> bool:
        """Hand an event that will never work to the dead letters; only when they have it is it done."""
        buried = await self._dead_letters.deliver(event)
        if isinstance(buried, Accepted):
            SOURCE_EVENTS.labels(self._upstream.name, outcome).inc()
            _log.warning("%s, now a dead letter: %s", outcome, why)
            return True
        _log.error("%s, left to the queue (the dead-letter sink: %s): %s", outcome, buried, why)
        return False

    async def _return(self, message: Message) -> None:
        delay = 0.0
        if not self._stopping.is_set():
            delay = min(MAX_RETURN_SECONDS, self._return_seconds * 2.0 ** min(message.deliveries - 1, 16))
        await self._give_back([message], delay)
        self._release([message])

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
            async with asyncio.timeout(self._grace_seconds):
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
