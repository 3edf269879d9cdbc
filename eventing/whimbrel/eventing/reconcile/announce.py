"""Announces objects that nothing came of: to a broker as events, or to an SQS queue as S3's notifications. Blocking."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.records import parse_record
from whimbrel.core.s3 import as_whimbrel_error
from whimbrel.eventing.patience import backoff
from whimbrel.eventing.posting import BROKER_TIMEOUT_SECONDS, post_event
from whimbrel.eventing.reconcile.announcement import record
from whimbrel.eventing.reconcile.compare import Concluded
from whimbrel.eventing.reconcile.survey import Outcome, Row

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

MAX_QUEUED: Final = 200  # moto's queue slows down with its length
_QUEUE_BATCH: Final = 10  # SQS's limit for one call
_POLL_SECONDS: Final = 0.25
_ATTEMPTS: Final = 6
_BACKOFF: Final = (0.2, 10.0)  # seconds: base, most


def region_of(client: S3Client, bucket: str) -> str:
    """The bucket's region, as records name it. Raises NotFound or Unavailable."""
    try:
        return client.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"asking for the region of bucket {bucket!r}") from error


class BrokerAnnouncer:
    """Posts an event for each row, at most `in_flight` at once and `rate` a second (None: as fast as they are taken).

    A broker that does not take one is asked again a few times; then Unavailable ends the run, which can go on later.
    """

    def __init__(
        self,
        broker: str,
        region: str,
        *,
        model_digest: str | None = None,
        in_flight: int = 16,
        rate: float | None = None,
        stop: threading.Event,
    ) -> None:
        self._broker, self._region, self._model_digest = broker, region, model_digest
        self._pace = Pace(rate, stop)
        self._stop = stop
        self._http = httpx.Client(
            timeout=httpx.Timeout(BROKER_TIMEOUT_SECONDS, connect=5.0), limits=httpx.Limits(max_connections=in_flight)
        )
        self._threads = ThreadPoolExecutor(in_flight, "announce")

    def __enter__(self) -> BrokerAnnouncer:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    def __call__(self, rows: Sequence[Row]) -> Iterator[Concluded]:
        posted: dict[Future[str | None], Row] = {}
        for row in rows:
            if not self._pace.wait():
                break
            posted[self._threads.submit(self._post, row)] = row
        failures: list[Unavailable] = []
        for future in as_completed(posted):
            try:
                refusal = future.result()
            except Unavailable as error:
                failures.append(error)
            else:
                yield posted[future], Outcome.REFUSED if refusal else Outcome.EMITTED, refusal or ""
        if failures:
            raise failures[0]

    def _post(self, row: Row) -> str | None:
        """Why it was refused; None when it was taken."""
        event = parse_record(record(row.listed, self._region, self._model_digest)).cloudevent()
        for tries in range(1, _ATTEMPTS):
            try:
                return self._once(event)
            except Unavailable as error:
                if self._stop.wait(backoff(tries, *_BACKOFF, error.retry_after_seconds)):
                    raise
        return self._once(event)

    def _once(self, event: Any) -> str | None:
        try:
            post_event(self._http, self._broker, event)
        except InputRefused as error:
            return str(error)
        return None


class Pace:
    """At most so many a second, evenly; what was not used is not saved up."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._gap, self._stop, self._next = 0.0 if rate is None else 1 / rate, stop, 0.0

    def wait(self) -> bool:
        """Until the next may go; False when the stop came first."""
        now = time.monotonic()
        self._next = max(self._next, now)
        stopped = self._stop.wait(self._next - now) if self._next > now else self._stop.is_set()
        self._next += self._gap
        return not stopped


@dataclass(frozen=True, slots=True)
class QueueAnnouncer:
    """Sends a notification for each row to a queue, while fewer than `max_queued` messages wait in it."""

    client: SQSClient
    url: str
    region: str
    max_queued: int = MAX_QUEUED
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Concluded]:
        for start in range(0, len(rows), _QUEUE_BATCH):
            batch = rows[start : start + _QUEUE_BATCH]
            while self._length() >= self.max_queued:
                if self.stop.wait(_POLL_SECONDS):
                    return
            self._send(batch)
            yield from ((row, Outcome.EMITTED, "") for row in batch)

    def _send(self, batch: Sequence[Row]) -> None:
        bodies = [json.dumps({"Records": [record(row.listed, self.region)]}) for row in batch]
        answer = self.client.send_message_batch(
            QueueUrl=self.url,
            Entries=[{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)],
        )
        if answer.get("Failed"):
            raise Unavailable(f"the queue refused a message: {answer['Failed'][0].get('Message')}")

    def _length(self) -> int:
        name: Literal["ApproximateNumberOfMessages"] = "ApproximateNumberOfMessages"
        return int(self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])["Attributes"][name])
