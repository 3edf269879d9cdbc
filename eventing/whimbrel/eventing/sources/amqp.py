"""The source `amqp`: S3 notifications in a queue of RabbitMQ, as Ceph's RGW and MinIO publish them.

RGW and MinIO publish to an exchange; the queue is bound to it by its owner, or by `amqp_declare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aio_pika
from aiormq.exceptions import ChannelAccessRefused

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import Unavailable
from whimbrel.eventing.amqp import GONE, AmqpSourceSettings, Link, connect
from whimbrel.eventing.notifications import read_notification
from whimbrel.eventing.upstream import Message, Unreadable

_BATCH: Final = 16


class AmqpUpstream:
    """One queue, over one connection at a time."""

    name = "amqp"
    lease_seconds = None
    receivers = 1

    def __init__(self, settings: AmqpSourceSettings) -> None:
        self._settings = settings
        self._link: Link | None = None
        self._generation = 0
        self.batch_size = min(_BATCH, settings.max_in_flight)

    @property
    def uri(self) -> str:
        return f"/whimbrel/sources/amqp/{self._settings.amqp_queue}"

    @property
    def hold_seconds(self) -> float:
        return self._settings.amqp_hold_seconds

    async def open(self) -> None:
        await self.close()
        self._generation += 1
        queue = f"queue {self._settings.amqp_queue!r}"
        try:
            self._link = await connect(self._settings, self._generation)
        except aio_pika.exceptions.ChannelNotFoundEntity as error:
            remedy = "create it, or set WHIMBREL_AMQP_DECLARE=true"
            raise Unavailable(f"{queue} does not exist ({error}); {remedy}") from error
        except ChannelAccessRefused as error:
            raise Unavailable(f"{queue}: access refused ({error}); give the user read permission") from error
        except aio_pika.exceptions.ChannelPreconditionFailed as error:
            raise Unavailable(f"{queue} cannot be made or consumed as set ({error})") from error
        except (aio_pika.exceptions.ProbableAuthenticationError, aio_pika.exceptions.AuthenticationError) as error:
            raise Unavailable(f"{queue}: the broker refused user or password") from error
        except aio_pika.exceptions.InvalidFrameError as error:
            remedy = "does the virtual host exist, and may the user enter it?"
            raise Unavailable(f"{queue}: the broker broke the greeting off; {remedy}") from error
        except GONE as error:
            raise Unavailable(f"{queue}: no broker answers ({type(error).__name__} {error})") from error

    async def receive(self) -> list[Message]:
        if self._link is None or self._link.lost:
            await self.open()
        return [] if self._link is None else await self._link.next(self.batch_size)

    def read(self, message: Message) -> list[Event | Unreadable]:
        return read_notification(message.body)

    def holds(self, message: Message) -> bool:
        return self._link is not None and message.receipt in self._link.unsettled

    async def accept(self, messages: Sequence[Message]) -> None:
        receipts = [message.receipt for message in messages if self.holds(message)]
        if receipts and self._link is not None:
            await self._link.acknowledge(receipts)

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        if not delay_seconds and self._link is not None:
            await self._link.stop()
        for message in messages:
            link, receipt = self._link, message.receipt
            if link is None or receipt not in link.unsettled:
                continue
            if delay_seconds and await link.publish_again(receipt, message.deliveries):
                await link.acknowledge([receipt])
            else:
                await link.requeue(receipt)

    async def extend(self, messages: Sequence[Message]) -> None:
        """There are no leases: what is not acknowledged stays ours for as long as the connection."""

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


SETTINGS, UPSTREAM = AmqpSourceSettings, AmqpUpstream
