"""The dead-letter sink: keeps whatever it is given, with the reason, ready to be sent again."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import InputRefused
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SINK_RECORDS
from whimbrel.core.results import dead_letter_key, dump
from whimbrel.core.s3 import as_whimbrel_error, s3_client
from whimbrel.eventing import serving
from whimbrel.eventing.dead_letter_record import dead_letter_of
from whimbrel.eventing.receiving import Writers, post_route
from whimbrel.eventing.settings import DeadLetterSinkSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

UNREADABLE: Final = "unreadable"

_UNKEPT_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
_VARYING_HEADERS: Final = frozenset({"host", "user-agent", "date", "traceparent", "tracestate"})

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
        self._put(dead_letter_key(self.prefix, event), body, "application/json")
        SINK_RECORDS.labels("dead-letters", "new").inc()
        with log_fields(event_id=event.id, object=event.subject):
            _log.warning("dead letter: %s", letter.error.message or f"code {letter.error.code}")

    def keep_raw(self, headers: Mapping[str, str], body: bytes) -> None:
        """Write down a request that holds no CloudEvent, as an HTTP message without its credentials."""
        lines = sorted(f"{name}: {value}" for name, value in headers.items() if name not in _UNKEPT_HEADERS)
        stable = [line for line in lines if line.split(":")[0] not in _VARYING_HEADERS]
        message = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body
        digest = hashlib.sha256("\n".join(stable).encode() + b"\n\n" + body).hexdigest()
        folder = f"{self.prefix.strip('/')}/" if self.prefix.strip("/") else ""
        self._put(f"{folder}{UNREADABLE}/{digest}.http", message, "message/http")
        SINK_RECORDS.labels("dead-letters", "unreadable").inc()

    def look(self) -> None:
        """Raises NotFound or Unavailable when the bucket cannot be used."""
        try:
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error

    def _put(self, key: str, body: bytes, content_type: str) -> None:
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"writing a dead letter to bucket {self.bucket!r}") from error


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
    """Keep what one request holds: its events, or the request itself where it holds none. Blocking."""
    try:
        for event in parse(headers, body):
            store.keep(event, received)
    except (InputRefused, ValueError, RecursionError) as error:
        _log.warning("kept as it came, it is no CloudEvent that can be written down: %s", error)
        store.keep_raw(headers, body)
