"""The seam between a queue of object events and their delivery: a new source is one file that fills this in.

A source's loop (`whimbrel.eventing.source`) does everything else: leases, delivery, order, dead letters, the stop.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from starlette.routing import BaseRoute

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused


@dataclass(frozen=True, slots=True)
class Message:
    """What an upstream hands out. `receipt` is the upstream's own word for it, never given twice to what is held.

    `deliveries` counts the rounds of delivery, the next one included. A message that is given back with a delay has
    the count of its next round: an upstream that can should keep it.
    """

    body: bytes
    receipt: Hashable
    deliveries: int = 1


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message, or one record of it, that is no object event."""

    raw: bytes
    error: InputRefused


class Upstream(Protocol):
    """A queue that keeps each message until it is accepted. Methods raise TryAgain while it is away."""

    @property
    def name(self) -> str:
        """The kind, as in metrics: `sqs`."""

    @property
    def uri(self) -> str:
        """Which queue, as the CloudEvents source of its unreadable messages."""

    @property
    def lease_seconds(self) -> float | None:
        """How long a received message stays ours before others get it; None: until the connection ends."""

    @property
    def hold_seconds(self) -> float:
        """How long an event that its sink does not take is tried again here, in its key's turn, before it goes back.

        0 where the upstream itself brings it again after a delay, math.inf where it cannot be given back alone.
        """

    @property
    def receivers(self) -> int:
        """How many receives run at once."""

    @property
    def batch_size(self) -> int:
        """The most messages of one receive."""

    async def open(self) -> None:
        """Look the queue up; tried again after TryAgain."""

    async def receive(self) -> list[Message]:
        """The next messages, none of which is held now; none when after a second or two none came."""

    def read(self, message: Message) -> list[Event | Unreadable]:
        """The CloudEvents of a message, one a record; none for a message that asks for nothing. Never raises."""

    def holds(self, message: Message) -> bool:
        """Whether a held message is still ours: not once its connection or partition is lost and it comes again."""

    async def accept(self, messages: Sequence[Message]) -> None:
        """These are done: they must not come again. What is no longer ours is passed over."""

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        """These are to come again, not before the delay where the upstream can. The stop gives back without delay.

        What is no longer ours is passed over.
        """

    async def extend(self, messages: Sequence[Message]) -> None:
        """These are still in work: a new lease for each. Only called where there are leases."""

    async def close(self) -> None:
        """Let the connections go; what was neither accepted nor given back comes again when its lease ends."""


@runtime_checkable
class Pushed(Protocol):
    """An upstream that others post to has, beside the above, routes that the source's own HTTP server answers."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Besides /healthz and /metrics."""
