"""The source `kafka`: S3 notifications in topics of Kafka, as Ceph's RGW and MinIO produce them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from confluent_kafka import KafkaException
from pydantic import BeforeValidator, Field

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import CommaSeparated, Seconds, split_commas
from whimbrel.eventing.kafka import Member, Receipt
from whimbrel.eventing.notifications import read_notification
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.upstream import Message, Unreadable

_BATCH: Final = 16
_WAIT_SECONDS: Final = 1.0


class KafkaSourceSettings(DeliverySettings):
    """Receives S3 notifications from Kafka topics and posts each object event to a sink as a CloudEvent."""

    kafka_brokers: str = Field(min_length=1, description="brokers to begin with, HOST:PORT, separated by commas")
    kafka_topics: Annotated[CommaSeparated, BeforeValidator(split_commas)] = Field(
        min_length=1, description="topics, separated by commas"
    )
    kafka_group: str = Field(default="whimbrel", min_length=1, description="consumer group; its members share the work")
    kafka_start: Literal["earliest", "latest"] = Field(
        default="earliest", description="where a group begins that has committed nothing yet"
    )
    kafka_security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext", description="protocol of the brokers"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how user and password are proved"
    )
    kafka_username: str | None = Field(default=None, description="user, where the protocol is a sasl one")
    kafka_password: str | None = Field(default=None, description="its password")
    kafka_ca_bundle: str | None = Field(default=None, description="file with the certificates to trust")
    kafka_certificate: str | None = Field(
        default=None, description="file with this client's certificate, for brokers that ask for one"
    )
    kafka_key: str | None = Field(default=None, description="file with its key, not encrypted")
    kafka_session_seconds: Seconds = Field(
        default=10, description="silence after which the group gives a member's partitions to the others"
    )
    kafka_leave_seconds: Seconds = Field(
        default=20, description="longest wait for what is in work when a partition goes to another member"
    )
    kafka_max_uncommitted: int = Field(
        default=1000, ge=1, le=1_000_000, description="most messages of a partition past one that is not accepted"
    )


class KafkaUpstream:
    """One member of the group. An event that its sink does not take holds the commit of its partition back."""

    name = "kafka"
    lease_seconds = None
    hold_seconds = float("inf")  # Kafka takes no single message back
    receivers = 1

    def __init__(self, settings: KafkaSourceSettings) -> None:
        self._settings = settings
        self._member: Member | None = None
        self.batch_size = min(_BATCH, settings.max_in_flight)

    @property
    def uri(self) -> str:
        return f"/whimbrel/sources/kafka/{','.join(self._settings.kafka_topics)}"

    async def open(self) -> None:
        try:
            member = Member(
                _config(self._settings),
                most_buffered=2 * self._settings.max_in_flight,
                most_uncommitted=self._settings.kafka_max_uncommitted,
                leave_seconds=self._settings.kafka_leave_seconds,
            )
        except KafkaException as error:
            raise SettingsError(
                f"settings WHIMBREL_KAFKA_*: expected what a Kafka client takes, seen {error}"
            ) from None
        await asyncio.to_thread(member.start, self._settings.kafka_topics)
        self._member = member

    async def receive(self) -> list[Message]:
        return [] if self._member is None else await self._member.receive(self.batch_size, _WAIT_SECONDS)

    def read(self, message: Message) -> list[Event | Unreadable]:
        return read_notification(message.body)

    def holds(self, message: Message) -> bool:
        return self._member is not None and self._member.holds(_receipt(message))

    async def accept(self, messages: Sequence[Message]) -> None:
        if self._member is not None:
            self._member.accept(map(_receipt, messages))

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        for message in messages:
            if self._member is None:
                return
            self._member.let_go(_receipt(message))
            if delay_seconds:
                again = self._member.bring_again
                asyncio.get_running_loop().call_later(delay_seconds, again, message, _receipt(message))

    async def extend(self, messages: Sequence[Message]) -> None:
        """There are no leases: a partition stays ours for as long as we are in the group."""

    async def close(self) -> None:
        if self._member is not None:
            await asyncio.to_thread(self._member.close)


def _receipt(message: Message) -> Receipt:
    if not isinstance(message.receipt, Receipt):
        raise TypeError(f"expected a message of Kafka, seen the receipt {message.receipt!r}")
    return message.receipt


def _config(settings: KafkaSourceSettings) -> dict[str, Any]:
    session = int(settings.kafka_session_seconds * 1000)
    given = {
        "bootstrap.servers": settings.kafka_brokers,
        "group.id": settings.kafka_group,
        "auto.offset.reset": settings.kafka_start,
        "security.protocol": settings.kafka_security,
        "ssl.ca.location": settings.kafka_ca_bundle,
        "ssl.certificate.location": settings.kafka_certificate,
        "ssl.key.location": settings.kafka_key,
        "client.id": "whimbrel",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # One member's partitions move, the others' stay where they are.
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session,
        "heartbeat.interval.ms": max(1, session // 4),
        "queued.max.messages.kbytes": 16384,
        "log_level": 3,
    }
    if settings.kafka_security.startswith("sasl"):
        given |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password,
        }
    return {name: value for name, value in given.items() if value is not None}


SETTINGS, UPSTREAM = KafkaSourceSettings, KafkaUpstream
