"""The source `rgw-pubsub`: a subscription of Ceph's gateway in its pull mode (Ceph 14 to 17)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import Field

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import SettingsError, TryAgain, Unavailable, WhimbrelError
from whimbrel.core.settings import HttpUrl, S3Settings
from whimbrel.eventing.notifications import read_record
from whimbrel.eventing.rgw.pubsub import CONNECTIONS, MAX_PAGE, PubSub, pubsub_client
from whimbrel.eventing.rgw.pull_documents import PulledEvent
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.upstream import Message, Unreadable

FIRST_PAUSE_SECONDS: Final = 0.05  # after the first empty look; doubled after each
MAX_POSTPONED: Final = 50_000

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class RgwPubsubSourceSettings(DeliverySettings, S3Settings):
    """Pulls the events of a subscription of Ceph's gateway and posts each to a sink as a CloudEvent."""

    rgw_pubsub_endpoint: HttpUrl = Field(description="URL of the gateway of the pubsub zone")
    rgw_subscription: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$", description="name of the subscription, which only this may read"
    )
    rgw_page_events: int = Field(default=200, ge=1, le=MAX_PAGE, description="events listed at once")
    rgw_idle_seconds: float = Field(
        default=2, gt=0, le=10, description="longest pause between two looks at an empty subscription"
    )


@dataclass(frozen=True, slots=True)
class _Postponed:
    key: Hashable
    not_before: float
    deliveries: int


class RgwPubsubUpstream:
    """Lists page after page, from the oldest event to the newest, and again; hands out one event of a key at a time.

    The gateway knows no leases: a second reader of a subscription gets the same events. An event stays in the
    subscription until it is acknowledged, so there is nothing to give back but a note of when to try it again.
    """

    name = "rgw-pubsub"
    lease_seconds = None
    hold_seconds = 0.0  # no younger event of the key overtakes one that was given back
    receivers = 1

    def __init__(self, settings: RgwPubsubSourceSettings) -> None:
        self._settings = settings
        self._connection = contextlib.AsyncExitStack()
        self._pubsub: PubSub | None = None
        self._acks = asyncio.Semaphore(CONNECTIONS - 1)  # one connection is the listing's
        self._listed: deque[PulledEvent] = deque()  # at most a page
        self._marker: str | None = None  # None: the next page is the first
        self._empty_looks = 0
        self._held: dict[str, Hashable] = {}  # event ids in work, with their keys
        self._postponed: dict[str, _Postponed] = {}
        self._busy: set[Hashable] = set()  # keys of both
        self._passed_over: set[Hashable] = set()  # keys with events that waited, since the first page
        self._began = 0.0  # when the first page was asked for
        self._freed = asyncio.Event()  # an event was accepted since the last listing began
        self._accepted: set[str] = set()  # since the last listing began, which may still show them

    @property
    def uri(self) -> str:
        return f"/whimbrel/sources/rgw-pubsub/{self._settings.rgw_subscription}"

    @property
    def batch_size(self) -> int:
        return self._settings.max_in_flight  # half of what may be held: the other half works while these come

    async def open(self) -> None:
        if self._pubsub is None:
            client = pubsub_client(self._settings, self._settings.rgw_pubsub_endpoint)
            self._pubsub = await self._connection.enter_async_context(client)
        found = await self._pubsub.subscription(self._settings.rgw_subscription)
        if found.push_endpoint:
            raise SettingsError(
                f"setting WHIMBREL_RGW_SUBSCRIPTION: expected a subscription that is pulled, seen that {found.name!r} "
                f"pushes to {found.push_endpoint}"
            )

    async def receive(self) -> list[Message]:
        if not self._listed:
            await self._list()
        messages: list[Message] = []
        while self._listed and len(messages) < self.batch_size:
            messages += self._handed_out(self._listed.popleft())
        if messages:
            self._empty_looks = 0
        elif self._marker is None:
            await self._pause()
        return messages

    def read(self, message: Message) -> list[Event | Unreadable]:
        return [read_record(json.loads(message.body))]

    def holds(self, message: Message) -> bool:
        return True  # nobody else takes it

    async def accept(self, messages: Sequence[Message]) -> None:
        async def ack(event_id: str) -> None:
            async with self._acks:
                await self._asked(self._opened().ack(self._settings.rgw_subscription, event_id))
            self._accepted.add(event_id)
            self._busy.discard(self._held.pop(event_id))
            self._freed.set()

        # Of those that failed before, the rest is acknowledged already.
        names = [str(message.receipt) for message in messages if message.receipt in self._held]
        for outcome in await asyncio.gather(*map(ack, names), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        for message in messages:
            event_id = str(message.receipt)
            key = self._held.pop(event_id, None)
            if key is None:
                continue  # acknowledged already
            while len(self._postponed) >= MAX_POSTPONED:
                # The oldest note makes room: its event comes again before its time, and no worse.
                self._busy.discard(self._postponed.pop(next(iter(self._postponed))).key)
            not_before = time.monotonic() + delay_seconds
            self._postponed[event_id] = _Postponed(key, not_before, message.deliveries)

    async def extend(self, messages: Sequence[Message]) -> None:
        """There are no leases."""

    async def close(self) -> None:
        await self._connection.aclose()

    async def _list(self) -> None:
        if self._marker is None:
            self._forget_absent()
        marker = None if len(self._passed_over) >= MAX_POSTPONED else self._marker
        self._accepted.clear()
        self._freed.clear()
        name, most = self._settings.rgw_subscription, self._settings.rgw_page_events
        asked_at = time.monotonic()
        page = await self._asked(self._opened().events(name, marker=marker, most=most))
        if marker is None:  # not before it came: a listing that failed shows nobody absent
            self._began = asked_at
            self._passed_over.clear()
        self._listed.extend(page.events)
        self._marker = page.next_marker
        if page.without_id:
            _log.error("left in the subscription: %d events without an id, which none can acknowledge", page.without_id)

    def _forget_absent(self) -> None:
        """What was due through all pages and did not come is gone: acknowledged elsewhere, or past its retention."""
        for event_id in [name for name, note in self._postponed.items() if note.not_before < self._began]:
            self._busy.discard(self._postponed.pop(event_id).key)

    async def _pause(self) -> None:
        """Longer after each empty look; not past what was postponed, nor past what an accepted event held up."""
        self._empty_looks += 1
        now = time.monotonic()
        seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._empty_looks, 16), self._settings.rgw_idle_seconds)
        due = min((note.not_before - now for note in self._postponed.values()), default=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(FIRST_PAUSE_SECONDS, min(seconds, due))):
                await (self._freed.wait() if self._passed_over else asyncio.Event().wait())

    def _handed_out(self, event: PulledEvent) -> list[Message]:
        """The event as a message, or none: in work, accepted, postponed, or behind an older one of its key."""
        if event.id in self._held or event.id in self._accepted:
            return []
        key = _key(event)
        note = self._postponed.get(event.id)
        if note is not None:
            waits = note.not_before > time.monotonic()
        else:
            waits = key in self._busy or key in self._passed_over
        if waits:
            self._passed_over.add(key)
            return []
        self._postponed.pop(event.id, None)
        self._held[event.id] = key
        self._busy.add(key)
        deliveries = 1 if note is None else note.deliveries
        return [Message(json.dumps(event.record).encode(), event.id, deliveries)]

    def _opened(self) -> PubSub:
        if self._pubsub is None:
            raise RuntimeError("expected open() before anything else")
        return self._pubsub

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        """While it runs, a refusal is waited out too: the subscription or the user may have been deleted."""
        try:
            return await call
        except TryAgain:
            raise
        except WhimbrelError as error:
            raise Unavailable(str(error)) from error


def _key(event: PulledEvent) -> Hashable:
    """Bucket and key; what has none is in nobody's way."""
    reading = read_record(event.record)
    return (reading.source, reading.subject) if isinstance(reading, Event) else event.id


SETTINGS, UPSTREAM = RgwPubsubSourceSettings, RgwPubsubUpstream
