"""One connection to RabbitMQ with a consumer on it: what it brings, settles, and gives back to the end of the queue.

A delivery tag counts on the connection that brought it alone: when that is lost, all it brought comes again on the
next. Nothing is rejected without being queued again, so a queue's dead-letter exchange is its owner's.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import AbstractChannel as WireChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused
from pydantic import Field
from yarl import URL

from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.upstream import Message

ROUNDS_HEADER: Final = "x-whimbrel-deliveries"  # on what was given back: its next round
GONE: Final = (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError)
_DELIVERIES_HEADER: Final = "x-delivery-count"  # of a quorum queue: how often it came back
_WAIT_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 5.0
_CONFIRM_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class AmqpSourceSettings(DeliverySettings):
    """Receives S3 notifications from a RabbitMQ queue and posts each object event to a sink as a CloudEvent."""

    amqp_url: Annotated[str, Field(pattern=r"^amqps?://\S+$")] = Field(
        description="amqp:// or amqps://HOST:PORT/VHOST of the broker"
    )
    amqp_username: str | None = Field(default=None, description="user, unless it is in the URL")
    amqp_password: str | None = Field(default=None, description="its password")
    amqp_queue: str = Field(min_length=1, max_length=255, description="name of the queue")
    amqp_declare: bool = Field(
        default=False, description="make the queue, and its binding, where it is absent; else it has to be there"
    )
    amqp_queue_type: Literal["quorum", "classic"] = Field(default="quorum", description="of a queue that is made")
    amqp_exchange: str = Field(default="", max_length=255, description="topic exchange that a made queue is bound to")
    amqp_routing_key: str = Field(
        default="#", max_length=255, description="which messages of the exchange; RGW's is the topic's name"
    )
    amqp_ca_bundle: str | None = Field(default=None, description="file with the certificates to trust, for amqps")
    amqp_heartbeat_seconds: int = Field(
        default=10, ge=1, le=600, description="time between heartbeats; a broker that is silent for three is away"
    )
    amqp_hold_seconds: float = Field(
        default=300, ge=0, le=1500, description="longest time that an event is tried before it goes to the queue's end"
    )


class Link:
    """One connection and what it brought. Once `lost`, nothing of it is ours."""

    def __init__(self, connection: AbstractConnection, channel: WireChannel, queue: str, generation: int) -> None:
        self._generation = generation
        self.unsettled: dict[Hashable, DeliveredMessage] = {}  # by receipt, in the order of arrival
        self.lost = False
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._publishing: AbstractChannel | None = None
        self._may_publish = True
        self._arrived: asyncio.Queue[Message | None] = asyncio.Queue()  # bounded by the prefetch; None: lost
        self._why: object = "closed"
        self._consumer: str | None = None
        # One at a time: an acknowledgement of all below a tag must not overtake one that gives a lower tag back.
        self._settling = asyncio.Lock()

    async def consume(self) -> None:
        self._channel.closing.add_done_callback(self._closed)
        self._channel.on_consumer_cancel_callbacks.add(self._cancelled)
        consuming = await self._channel.basic_consume(self._queue, self._arrive, timeout=_CONNECT_SECONDS)
        self._consumer = consuming.consumer_tag

    async def next(self, most: int) -> list[Message]:
        """Up to `most` messages; waits for the first."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                arrived = [await self._arrived.get()]
        except TimeoutError:
            return []
        while len(arrived) < most and not self._arrived.empty():
            arrived.append(self._arrived.get_nowait())
        if self.lost:
            raise Unavailable(f"queue {self._queue!r}: the connection is lost ({self._why})")
        return [message for message in arrived if message is not None]

    async def acknowledge(self, receipts: Sequence[Hashable]) -> None:
        """All tags below the first that is still in work with one frame, each of the others with its own."""
        async with self._settling:
            settled = [self.unsettled.pop(receipt) for receipt in receipts if receipt in self.unsettled]
            tags = [_tag(message) for message in settled]
            first_open = _tag(next(iter(self.unsettled.values()))) if self.unsettled else None
            below = max((tag for tag in tags if first_open is None or tag < first_open), default=0)
            try:
                if below:
                    await self._channel.basic_ack(below, multiple=True, wait=False)
                for tag in tags:
                    if tag > below:
                        await self._channel.basic_ack(tag, wait=False)
            except GONE as error:
                self._lose(error)

    async def stop(self) -> None:
        """Bring nothing more, and let others have what nobody asked for yet: what is requeued would come back here."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            await self._channel.basic_cancel(consumer, timeout=_CONNECT_SECONDS)
        except GONE as error:
            self._lose(error)
        while not self._arrived.empty():
            message = self._arrived.get_nowait()
            if message is not None:
                await self.requeue(message.receipt)

    async def requeue(self, receipt: Hashable) -> None:
        """Put it in front of the queue again."""
        async with self._settling:
            message = self.unsettled.pop(receipt, None)
            try:
                if message is not None:
                    await self._channel.basic_nack(_tag(message), requeue=True)
            except GONE as error:
                self._lose(error)

    async def publish_again(self, receipt: Hashable, deliveries: int) -> bool:
        """Put a copy to the end of the queue, with its count; whether the broker has confirmed that.

        RabbitMQ knows no delay and puts what is requeued in front: the others would not get past it.
        """
        if not self._may_publish:
            return False
        try:
            if self._publishing is None or self._publishing.is_closed:
                self._publishing = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            message = self.unsettled.get(receipt)
            if message is None:  # lost while the channel opened
                return False
            await self._publishing.default_exchange.publish(
                _copy(message, deliveries), self._queue, timeout=_CONFIRM_SECONDS
            )
        except ChannelAccessRefused as error:
            self._may_publish = False
            _log.warning("what is given back goes in front of the queue, not behind it (%s)", error)
            return False
        except (*GONE, aio_pika.exceptions.DeliveryError) as error:
            _log.warning("queue %s took no copy of what is given back (%s)", self._queue, error)
            return False
        return receipt in self.unsettled

    async def close(self) -> None:
        self._lose("closed")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._connection.close()
        except GONE as error:
            _log.debug("the connection did not close in order (%s)", error)

    async def _arrive(self, message: DeliveredMessage) -> None:
        if not self.lost:
            receipt = self._generation, _tag(message)
            self.unsettled[receipt] = message
            self._arrived.put_nowait(Message(message.body, receipt, _deliveries(message)))

    async def _cancelled(self, frame: object) -> None:
        self._lose("the broker cancelled the consumer; was the queue deleted?")

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        self._lose("cancelled" if closing.cancelled() else closing.exception() or "closed")

    def _lose(self, why: object) -> None:
        if not self.lost:
            self.lost, self._why = True, why
            self.unsettled.clear()
            self._arrived.put_nowait(None)


async def connect(settings: AmqpSourceSettings, generation: int) -> Link:
    url = URL(settings.amqp_url).update_query(heartbeat=str(settings.amqp_heartbeat_seconds))
    if settings.amqp_username is not None:
        url = url.with_user(settings.amqp_username).with_password(settings.amqp_password)
    context = _tls(settings) if url.scheme == "amqps" else None
    properties: Any = {"connection_name": "whimbrel source amqp"}
    connection = await aio_pika.connect(
        url, timeout=_CONNECT_SECONDS, ssl_context=context, client_properties=properties
    )
    try:
        async with asyncio.timeout(2 * _CONNECT_SECONDS):
            await _find_queue(connection, settings)
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=2 * settings.max_in_flight)  # as many as the source holds
            wire = await channel.get_underlay_channel()
            link = Link(connection, wire, settings.amqp_queue, generation)
            await link.consume()
            return link
    except BaseException:
        await connection.close()
        raise


async def _find_queue(connection: AbstractConnection, settings: AmqpSourceSettings) -> None:
    """Passively, since a channel that asked for an absent queue is closed: make it on another, if that is wanted."""
    try:
        async with await connection.channel() as channel:
            await channel.declare_queue(settings.amqp_queue, passive=True)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        if not settings.amqp_declare:
            raise
        async with await connection.channel() as channel:
            arguments: Any = {"x-queue-type": settings.amqp_queue_type}
            queue = await channel.declare_queue(settings.amqp_queue, durable=True, arguments=arguments)
            if settings.amqp_exchange:
                exchange = await channel.declare_exchange(settings.amqp_exchange, "topic", durable=True)
                await queue.bind(exchange, settings.amqp_routing_key)


def _tls(settings: AmqpSourceSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.amqp_ca_bundle)
    except OSError as error:
        raise SettingsError(
            f"setting WHIMBREL_AMQP_CA_BUNDLE: expected a file of certificates, seen "
            f"{settings.amqp_ca_bundle!r} ({error.strerror or error})"
        ) from None


def _tag(message: DeliveredMessage) -> int:
    return message.delivery_tag or 0


def _deliveries(message: DeliveredMessage) -> int:
    """The round that comes: what we counted, and how often the broker brought it back."""
    headers = message.header.properties.headers or {}
    returns = _count(headers, _DELIVERIES_HEADER) or int(bool(message.redelivered))
    return max(1, _count(headers, ROUNDS_HEADER)) + returns


def _count(headers: Mapping[str, Any], name: str) -> int:
    value = headers.get(name)
    return min(value, 10_000) if isinstance(value, int) and value > 0 else 0


def _copy(message: DeliveredMessage, deliveries: int) -> aio_pika.Message:
    properties = message.header.properties
    headers = {name: value for name, value in (properties.headers or {}).items() if name != _DELIVERIES_HEADER}
    return aio_pika.Message(
        message.body,
        headers=headers | {ROUNDS_HEADER: deliveries},
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=properties.message_id,
    )
