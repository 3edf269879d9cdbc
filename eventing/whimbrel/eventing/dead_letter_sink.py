"""The dead-letter sink: keeps whatever it is given, with the reason, ready to be sent again."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import InputRefused
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SINK_RECORDS
from whimbrel.core.results import dead_letter_key, dump
from whimbrel.core.s3 import as_whimbrel_error, s3_client
from whimbrel.core.self_trigger import check_not_announced
from whimbrel.eventing import serving
from whimbrel.eventing.dead_letter_record import dead_letter_of
from whimbrel.eventing.listing import folder
from whimbrel.eventing.receiving import Writers, post_route
from whimbrel.eventing.settings import DeadLetterSinkSettings
from whimbrel.eventing.unreadable import UNREADABLE_TYPE, unreadable_request

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetterStore:
    """The dead letters of one bucket. Blocking; thread-safe."""

    client: S3Client
    bucket: str
    prefix: str = ""

    def keep(self, event: Event, received: datetime) -> None:
        """Write the record of one event over what its key held: a redelivered dead letter is one record."""
        letter = dead_letter_of(event, received)
        body = dump(letter)  # raises ValueError for text that is no Unicode
        try:
            self.client.put_object(
                Bucket=self.bucket,
                Key=dead_letter_key(self.prefix, event),
                Body=body,
                ContentType="application/json",
            )
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"writing a dead letter to bucket {self.bucket!r}") from error
        SINK_RECORDS.labels("dead-letters", "unreadable" if event.type == UNREADABLE_TYPE else "new").inc()
        with log_fields(event_id=event.id, object=event.subject):
            _log.warning("dead letter: %s", letter.error.message or f"code {letter.error.code}")

    def look(self) -> None:
        """Raises NotFound or Unavailable when the bucket cannot be used, SettingsError where it would feed itself."""
        check_not_announced(self.client, self.bucket, "dead letters", prefix=folder(self.prefix), suffix=".json")
        try:
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error


def run(settings: DeadLetterSinkSettings) -> None:
    """Serve until SIGTERM. Raises Unavailable when the bucket does not come within `startup_wait_seconds`."""
    client = s3_client(settings, connections=settings.concurrent_writes)
    store = DeadLetterStore(client, settings.dead_letters_bucket, settings.dead_letters_prefix)
    writers = Writers(settings)

    async def receive(headers: Mapping[str, str], body: bytes) -> None:
        with tracing.span("sink.dead_letters", tracing.carrier(headers)):
            await writers.call(functools.partial(take, store, headers, body, datetime.now(UTC)))

    async def work(stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        look = functools.partial(writers.call, store.look)
        service = f"bucket {store.bucket!r}"
        if await serving.until_present(look, service, settings.startup_wait_seconds, stopping):
            ready()

    serving.run(settings, [post_route(receive, settings.max_body_bytes)], work)


def take(store: DeadLetterStore, headers: Mapping[str, str], body: bytes, received: datetime) -> None:
    """Keep what one request holds: its events, or the request itself where they cannot be written down. Blocking."""
    try:
        for event in parse(headers, body):
            store.keep(event, received)
    except (InputRefused, ValueError, RecursionError) as error:
        _log.warning("kept as it came, it is no CloudEvent that can be written down: %s", error)
        refusal = (
            InputRefused("expected JSON that is not nested so deep") if isinstance(error, RecursionError) else error
        )
        store.keep(unreadable_request(headers, body, refusal), received)
