"""The source `sqs`: S3 notifications in a queue of AWS or of a store that speaks its API."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field, model_validator

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import Unavailable
from whimbrel.core.s3 import error_code, sqs_client
from whimbrel.core.settings import HttpUrl, S3Settings
from whimbrel.eventing.notifications import read_notification
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.upstream import Message, Unreadable

BATCH = 10  # SQS's own limit on every batch
MAX_DELAY_SECONDS = 43200  # SQS's own limit on a visibility timeout

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class SqsSourceSettings(DeliverySettings, S3Settings):
    """Receives S3 notifications from an SQS queue and posts each object event to a sink as a CloudEvent."""

    sqs_queue: str = Field(min_length=1, description="name or URL of the queue")
    sqs_endpoint: HttpUrl | None = Field(default=None, description="URL of the queue service; absent: AWS itself")
    sqs_wait_seconds: int = Field(default=2, ge=0, le=20, description="long poll of one receive, the stop waits for it")
    sqs_visibility_seconds: int = Field(
        default=60, ge=1, le=43200, description="lease of a message, extended while it is worked on"
    )
    sqs_receivers: int = Field(default=1, ge=1, le=16, description="receives at once")

    @model_validator(mode="after")
    def _poll_ends_before_the_client_gives_up(self) -> SqsSourceSettings:
        if self.sqs_wait_seconds >= self.s3_read_timeout_seconds:
            raise ValueError(
                f"expected WHIMBREL_SQS_WAIT_SECONDS below WHIMBREL_S3_READ_TIMEOUT_SECONDS, "
                f"seen {self.sqs_wait_seconds} and {self.s3_read_timeout_seconds:g}"
            )
        return self


class SqsUpstream:
    """One queue. The blocking client runs in threads of its own: one a receiver, and three for the rest."""

    name = "sqs"
    batch_size = BATCH
    hold_seconds = 0.0  # a message that is given back stays invisible for the delay

    def __init__(self, settings: SqsSourceSettings) -> None:
        self._settings = settings
        self._client = sqs_client(settings, settings.sqs_endpoint, connections=settings.sqs_receivers + 3)
        self._receiving = ThreadPoolExecutor(settings.sqs_receivers, "sqs-receive")
        self._settling = ThreadPoolExecutor(3, "sqs-settle")
        self._url = ""

    @property
    def uri(self) -> str:
        return f"/whimbrel/sources/sqs/{self._settings.sqs_queue.rstrip('/').rsplit('/', 1)[-1]}"

    @property
    def lease_seconds(self) -> float:
        return self._settings.sqs_visibility_seconds

    @property
    def receivers(self) -> int:
        return self._settings.sqs_receivers

    async def open(self) -> None:
        await self._call(self._settling, self._look_up, "looking it up")

    async def receive(self) -> list[Message]:
        def receive() -> list[Message]:
            answer = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=self._settings.sqs_wait_seconds,
                VisibilityTimeout=self._settings.sqs_visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
            return [_message(message) for message in answer.get("Messages", [])]

        return await self._call(self._receiving, receive, "receiving")

    def read(self, message: Message) -> list[Event | Unreadable]:
        return read_notification(message.body)

    def holds(self, message: Message) -> bool:
        return True  # the lease is kept; one that ended all the same is the queue's to tell

    async def accept(self, messages: Sequence[Message]) -> None:
        def delete(batch: Sequence[Message]) -> Iterable[Any]:
            entries: list[Any] = [
                {"Id": str(n), "ReceiptHandle": str(message.receipt)} for n, message in enumerate(batch)
            ]
            return self._client.delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed", [])

        await self._in_batches(messages, delete, "deleting messages")

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        await self._set_visibility(messages, min(round(delay_seconds), MAX_DELAY_SECONDS), "returning messages")

    async def extend(self, messages: Sequence[Message]) -> None:
        await self._set_visibility(messages, self._settings.sqs_visibility_seconds, "extending the lease of messages")

    async def close(self) -> None:
        self._receiving.shutdown(wait=False, cancel_futures=True)
        self._settling.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _look_up(self) -> None:
        queue = self._settings.sqs_queue
        if "://" in queue:
            self._client.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
            self._url = queue
        else:
            self._url = self._client.get_queue_url(QueueName=queue)["QueueUrl"]

    async def _set_visibility(self, messages: Sequence[Message], seconds: int, doing: str) -> None:
        def change(batch: Sequence[Message]) -> Iterable[Any]:
            entries: list[Any] = [
                {"Id": str(n), "ReceiptHandle": str(message.receipt), "VisibilityTimeout": seconds}
                for n, message in enumerate(batch)
            ]
            answer = self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
            return answer.get("Failed", [])

        await self._in_batches(messages, change, doing)

    async def _in_batches(
        self, messages: Sequence[Message], call: Callable[[Sequence[Message]], Iterable[Any]], doing: str
    ) -> None:
        for batch in _batches(messages):
            failed = await self._call(self._settling, functools.partial(call, batch), doing)
            for entry in failed:
                if not entry["SenderFault"]:
                    raise Unavailable(f"{doing}: queue {self._settings.sqs_queue!r} answered {entry['Code']}")
                # The lease ended before, or the message is gone: nothing that another try would change.
                _log.warning("%s: the queue refused one", doing, extra={"code": entry["Code"]})

    async def _call(self, threads: ThreadPoolExecutor, call: Callable[[], Answer], doing: str) -> Answer:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
        except ClientError as error:
            missing = error_code(error).endswith(("NonExistentQueue", "QueueDoesNotExist"))
            what = "does not exist; create it" if missing else f"answered {error_code(error)}"
            raise Unavailable(f"{doing}: queue {self._settings.sqs_queue!r} {what}") from error
        except BotoCoreError as error:
            raise Unavailable(f"{doing}: queue {self._settings.sqs_queue!r} does not answer ({error})") from error


def _message(received: Any) -> Message:
    count = received.get("Attributes", {}).get("ApproximateReceiveCount", "1")
    # A queue may hold text that is no Unicode; it must become an unreadable message, not an exception here.
    return Message(received["Body"].encode("utf-8", "surrogatepass"), received["ReceiptHandle"], int(count))


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    for start in range(0, len(messages), BATCH):
        yield messages[start : start + BATCH]


SETTINGS, UPSTREAM = SqsSourceSettings, SqsUpstream
