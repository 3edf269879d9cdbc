"""The source's loop over an upstream that is nothing but a list: what any sixth source gets for free."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from testbed.sinks import Reply, ScriptedSink, scripted_sink
from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.eventing.delivery import Delivery, http_client
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.source import Source
from whimbrel.eventing.unreadable import UNREADABLE_TYPE
from whimbrel.eventing.upstream import Message, Unreadable, Upstream

pytestmark = pytest.mark.anyio


class ListUpstream:
    """Messages of one text each, which becomes the subject. `away` calls in a row fail at first."""

    name = "list"
    uri = "/lists/1"
    lease_seconds: float | None = None
    hold_seconds = 0.0
    receivers = 1
    batch_size = 3

    def __init__(self, bodies: Sequence[str], away: int = 0) -> None:
        self.waiting = [Message(body.encode(), f"receipt {body}", deliveries=3) for body in bodies]
        self.accepted: list[Message] = []
        self.returned: list[tuple[Message, float]] = []
        self.extended: list[Message] = []
        self.away = away
        self.lost = self.breaks = False

    async def open(self) -> None:
        """Always there."""

    async def receive(self) -> list[Message]:
        self._answer()
        await asyncio.sleep(0.001)
        messages, self.waiting = self.waiting[: self.batch_size], self.waiting[self.batch_size :]
        return messages

    def read(self, message: Message) -> list[Event | Unreadable]:
        if self.breaks:
            raise KeyError("surprise")
        body = message.body.decode()
        if body == "junk":
            return [Unreadable(message.body, InputRefused("expected sense"))]
        return [Event(id=body, source="/list", type="t", subject=body)]

    def holds(self, message: Message) -> bool:
        return not self.lost

    async def accept(self, messages: Sequence[Message]) -> None:
        self._answer()
        self.accepted += messages

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        self.returned += [(message, delay_seconds) for message in messages]

    async def extend(self, messages: Sequence[Message]) -> None:
        self.extended += messages

    async def close(self) -> None:
        """Nothing to let go."""

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the list is away")


QUICK: dict[str, Any] = {
    "backoff_seconds": 0.01,
    "backoff_max_seconds": 0.05,
    "delivery_attempts": 3,
    "max_in_flight": 3,
}


async def work(upstream: Upstream, sink: str, until: Callable[[], object], **changes: Any) -> None:
    """Run a source until the condition holds, then stop it."""
    stopping = asyncio.Event()
    settings = DeliverySettings(**(QUICK | {"sink": sink} | changes))
    async with http_client() as client:
        delivery = Delivery(client, sink, settings, upstream.name, stopping)
        letters = Delivery(client, settings.dead_letter_sink or sink, settings, "list-dead-letters", stopping)
        source = Source(upstream, delivery, letters, settings, stopping)
        running = asyncio.create_task(source.run())
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - the condition is a server's, in another thread
                await asyncio.sleep(0.005)
            stopping.set()
            await running


def failing(event: Event, attempt: int) -> Reply:
    return Reply(503 if event.subject == "bad" or event.type == UNREADABLE_TYPE else 202)


async def test_each_message_is_accepted_or_returned(caplog: pytest.LogCaptureFixture) -> None:
    upstream = ListUpstream(["a", "bad", "b", "junk", "c", "d", "e"], away=3)
    with scripted_sink(failing) as sink:
        await work(upstream, sink.url, lambda: len(upstream.accepted) + len(upstream.returned) == 7)
    assert sorted(message.body for message in upstream.accepted) == [b"a", b"b", b"c", b"d", b"e"]
    assert {message.body: delay for message, delay in upstream.returned} == {b"bad": 0.2, b"junk": 0.2}
    assert len([event for event in sink.received if event.subject == "bad"]) == 3
    told = [record.message for record in caplog.records if "upstream /lists/1" in record.message]
    assert told == ["upstream /lists/1 is away, waiting for it: the list is away"]


async def test_an_accept_that_fails_is_tried_again() -> None:
    upstream = ListUpstream(["a"])

    def away_from_now(event: Event, attempt: int) -> Reply:
        upstream.away = 2
        return Reply()

    with scripted_sink(away_from_now) as sink:
        await work(upstream, sink.url, lambda: upstream.accepted)
    assert len(sink.received) == 1


async def test_no_more_is_held_than_allowed_and_leases_are_kept() -> None:
    upstream = ListUpstream([str(n) for n in range(20)])
    upstream.lease_seconds = 0.03
    with scripted_sink(lambda event, attempt: Reply(503, headers={"retry-after": "1"})) as sink:
        await work(upstream, sink.url, lambda: len(upstream.extended) >= 12 and _seen(sink) >= 6)
        assert len(upstream.waiting) + len(upstream.returned) == 20


async def test_the_grace_bounds_the_stop() -> None:
    upstream = ListUpstream(["a", "b"])
    never = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=never)) as sink:
        await work(upstream, sink.url, lambda: _seen(sink) == 2, grace_seconds=0.05)
    assert sorted((message.body, delay) for message, delay in upstream.returned) == [(b"a", 0), (b"b", 0)]
    assert upstream.accepted == []


async def test_an_event_is_tried_here_as_long_as_the_upstream_holds_it() -> None:
    upstream = ListUpstream(["bad", "a"])
    upstream.hold_seconds = math.inf
    healed = threading.Event()

    def script(event: Event, attempt: int) -> Reply:
        return Reply(503 if event.subject == "bad" and not healed.is_set() else 202)

    def until() -> bool:
        if attempts(sink, "bad") > 9:  # more than two rounds
            healed.set()
        return len(upstream.accepted) == 2

    with scripted_sink(script) as sink:
        await work(upstream, sink.url, until)
    assert upstream.returned == []


async def test_what_is_exhausted_becomes_a_dead_letter_with_its_last_error() -> None:
    upstream = ListUpstream(["bad", "gone"])
    upstream.hold_seconds = math.inf

    def script(event: Event, attempt: int) -> Reply:
        return Reply(500, b"no") if event.subject == "bad" else Reply(503)

    with scripted_sink(script) as sink, scripted_sink() as letters:
        await work(upstream, sink.url, lambda: len(upstream.accepted) == 2, dead_letter_sink=letters.url, max_rounds=4)
    by_subject = {letter.subject: letter.extensions for letter in letters.accepted}
    # They had come three times before: the third and the fourth round are made here.
    assert {subject: attempts(sink, subject) for subject in ("bad", "gone")} == {"bad": 6, "gone": 6}
    assert by_subject["bad"]["whimbrelattempts"] == "12"
    assert (by_subject["bad"]["knativeerrorcode"], by_subject["gone"]["knativeerrorcode"]) == ("500", "503")
    assert base64.b64decode(by_subject["bad"]["knativeerrordata"]) == b"no"
    assert json.loads(base64.b64decode(by_subject["gone"]["knativeerrordata"]))["reason"] == "Exhausted"


async def test_what_the_upstream_lost_is_not_delivered_once_more() -> None:
    upstream = ListUpstream(["bad"])
    upstream.hold_seconds = math.inf

    def lose_it(event: Event, attempt: int) -> Reply:
        upstream.lost = True
        return Reply(500)

    with scripted_sink(lose_it) as sink:
        await work(upstream, sink.url, lambda: upstream.returned)
        assert attempts(sink, "bad") == 3


async def test_a_read_that_raises_is_an_unreadable_message() -> None:
    upstream = ListUpstream(["a"])
    upstream.breaks = True
    with scripted_sink() as sink:
        await work(upstream, sink.url, lambda: upstream.accepted)
    assert [event.type for event in sink.accepted] == [UNREADABLE_TYPE]


class Unreturned(ListUpstream):
    """Gives nothing back, for no reason that is foreseen."""

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        await super().give_back(messages, delay_seconds)
        raise KeyError("surprise")


async def test_a_message_that_cannot_be_given_back_keeps_no_place() -> None:
    upstream = Unreturned(["bad"] * 9 + ["good"])
    with scripted_sink(failing) as sink:
        await work(upstream, sink.url, lambda: upstream.accepted)
    assert [message.body for message in upstream.accepted] == [b"good"]


def attempts(sink: ScriptedSink, subject: str) -> int:
    return len([event for event in sink.received if event.subject == subject])


def _seen(sink: ScriptedSink) -> int:
    return len({event.id for event in sink.received})
