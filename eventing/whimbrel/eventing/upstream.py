"""The seam between a queue of object events and their delivery: a new source is one file that fills this in.

A source's loop (`whimbrel.eventing.source`) does everything else: leases, delivery, order, dead letters, the stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused


@dataclass(frozen=True, slots=True)
class Message:
    """What an upstream hands out. `receipt` is the upstream's own word for it; `deliveries` counts this one too."""

    body: bytes
    receipt: str
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
    def receivers(self) -> int:
        """How many receives run at once."""

    @property
    def batch_size(self) -> int:
        """The most messages of one receive."""

    async def open(self) -> None:
        """Look the queue up; tried again after TryAgain."""

    async def receive(self) -> list[Message]:
        """The next messages; waits a few seconds for one, and gives none when none came."""

    def read(self, message: Message) -> list[Event | Unreadable]:
        """The CloudEvents of a message, one a record; none for a message that asks for nothing. Never raises."""

    async def accept(self, messages: Sequence[Message]) -> None:
        """These are done: they must not come again."""

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        """These are to come again, not before the delay where the upstream can."""

    async def extend(self, messages: Sequence[Message]) -> None:
        """These are still in work: a new lease for each."""

    async def close(self) -> None:
        """Let the connections go; what was neither accepted nor given back comes again when its lease ends."""
