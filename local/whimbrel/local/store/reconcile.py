"""Announces the objects that nothing came of: what the queue forgot when the store ended.

The store's queue is empty after a start, so an object that was put, and not yet worked on, would wait for ever. An
object is accounted for when its present version has a result or a record that it was gone (whatever the model), or
a dead letter. Dead letters are compared by the object version inside the event, not by the event's id: an event made
here has another id than the one that the store sent at the put, and a second dead letter would be one too many.

Each other object gets a message in S3's shape, as the store itself writes it, but for the eventTime, which is the
object's Last-Modified: so the event's id is the same however often this runs. A message too many is harmless, since
results are written once.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Stop
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote_plus

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.cloudevent import STRUCTURED, Event, parse
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.records import AWS, object_event
from whimbrel.core.references import ObjectRef, path_of_key
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import (
    BY_VERSION,
    GONE_TYPE,
    PREDICTION_TYPE,
    gone_key,
    parse_dead_letter,
    parse_gone,
    parse_result,
)
from whimbrel.core.s3 import as_whimbrel_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

MAX_QUEUED = 200  # moto's queue slows down with its length
_BATCH = 10  # SQS's limit for one call
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """`missing` objects had neither result nor dead letter; fewer were `announced` only when it was stopped."""

    objects: int
    missing: int
    announced: int


@dataclass(frozen=True, slots=True)
class _Listed:
    ref: ObjectRef
    modified: datetime


def reconcile(
    s3: S3Client,
    sqs: SQSClient,
    *,
    bucket: str,
    queue_url: str,
    results: ResultStore,
    dead_letters_bucket: str | None = None,
    dead_letters_prefix: str = "",
    key_prefix: str = "",
    key_suffix: str = "",
    not_after: datetime | None = None,
    max_queued: int = MAX_QUEUED,
    stop: Stop | None = None,
) -> ReconcileReport:
    """Blocking; may run while everything else runs. `key_prefix` and `key_suffix` are the notification's filter.

    Objects modified later than `not_after`, to the second as stores tell it, are left out: when that is the start of
    the store, the store itself announces them, and a broken one gets no second dead letter under another event id.

    It waits while the queue holds `max_queued` messages, until `stop` is set. Memory does not grow with the number
    of objects. Raises NotFound when a bucket is missing, Unavailable when the store does not answer.
    """
    stop = stop or Stop()

    def dead(ref: ObjectRef) -> bool:
        return dead_letters_bucket is not None and _is_dead_letter(s3, dead_letters_bucket, dead_letters_prefix, ref)

    objects = missing = announced = 0
    batch: list[_Listed] = []
    try:
        region = s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"
        queue = _Queue(sqs, queue_url, region, max_queued, stop)
        with closing(_versions_with_results(s3, bucket, results, stop)) as known:
            for listed in _objects(s3, bucket, key_prefix, key_suffix, not_after):
                if stop.is_set():
                    break
                objects += 1
                if _has_result(known, results, listed.ref) or dead(listed.ref):
                    continue
                missing += 1
                batch.append(listed)
                if len(batch) == _BATCH:
                    announced += queue.announce(batch)
                    batch.clear()
            announced += queue.announce(batch)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"comparing bucket {bucket!r} with its results") from error
    logger.info("reconciled", extra={"objects": objects, "missing": missing, "announced": announced})
    return ReconcileReport(objects, missing, announced)


def notification(listed: ObjectRef, modified: datetime, region: str) -> dict[str, Any]:
    """The message that the store would have sent, with the object's Last-Modified as eventTime; pure."""
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": AWS,
                "awsRegion": region,
                "eventTime": modified.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "eventName": "ObjectCreated:Put",
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "whimbrel-reconcile",
                    "bucket": {"name": listed.bucket, "arn": f"arn:aws:s3:::{listed.bucket}"},
                    "object": {"key": quote_plus(listed.key), "size": listed.size, "eTag": listed.etag},
                },
            }
        ]
    }


def _objects(s3: S3Client, bucket: str, prefix: str, suffix: str, not_after: datetime | None) -> Iterator[_Listed]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            modified = each["LastModified"].replace(microsecond=0)
            if each["Key"].endswith(suffix) and (not_after is None or modified <= not_after):
                ref = ObjectRef(bucket, each["Key"], etag=each["ETag"].strip('"'), size=each["Size"])
                yield _Listed(ref, each["LastModified"])


def _versions_with_results(s3: S3Client, bucket: str, results: ResultStore, stop: Stop) -> sqlite3.Connection:
    """The folder of each object version that has a result or is gone, in a temporary database that may use the disk."""
    known = sqlite3.connect("")
    known.execute("CREATE TABLE versions (folder TEXT PRIMARY KEY) WITHOUT ROWID")
    prefix = _results_prefix(results, bucket).strip("/")
    root = f"{prefix}/{BY_VERSION}/" if prefix else f"{BY_VERSION}/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=results.bucket, Prefix=root):
        if stop.is_set():
            break
        folders = ((each["Key"].rpartition("/")[0],) for each in page.get("Contents", []))
        known.executemany("INSERT OR IGNORE INTO versions VALUES (?)", folders)
    return known


def _has_result(known: sqlite3.Connection, results: ResultStore, ref: ObjectRef) -> bool:
    folder = gone_key(_results_prefix(results, ref.bucket), ref).rpartition("/")[0]
    return known.execute("SELECT 1 FROM versions WHERE folder = ?", (folder,)).fetchone() is not None


def _results_prefix(results: ResultStore, bucket: str) -> str:
    return results.prefix.replace("{bucket}", bucket)


def _is_dead_letter(s3: S3Client, bucket: str, prefix: str, ref: ObjectRef) -> bool:
    """Whether a dead letter of this key is about this version of it."""
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"{folder}{path_of_key(ref.key)}/", Delimiter="/"
    )
    for page in pages:
        for each in page.get("Contents", []):
            content = s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            if _version_in_dead_letter(content) == (ref.bucket, ref.version):
                return True
    return False


def _version_in_dead_letter(content: bytes) -> tuple[str, str] | None:
    """The bucket and the object version that a dead letter is about; None where it tells none."""
    try:
        letter = parse_dead_letter(content)
        (event,) = parse({"content-type": STRUCTURED}, json.dumps(letter.event).encode())
        ref = _object_of(event)
    except InputRefused:
        return None
    return ref.bucket, ref.version


def _object_of(event: Event) -> ObjectRef:
    """Of an object event, or of a reply that its sink did not take."""
    if event.type == PREDICTION_TYPE:
        return parse_result(event.data or b"").object.ref
    if event.type == GONE_TYPE:
        return parse_gone(event.data or b"").object.ref
    return object_event(event).object


@dataclass(frozen=True, slots=True)
class _Queue:
    sqs: SQSClient
    url: str
    region: str
    max_queued: int
    stop: Stop

    def announce(self, batch: list[_Listed]) -> int:
        """How many were announced: all, or none when it was stopped while the queue was full."""
        if not batch:
            return 0
        while self._length() >= self.max_queued:
            if self.stop.wait(_POLL_SECONDS):
                return 0
        answer = self.sqs.send_message_batch(
            QueueUrl=self.url,
            Entries=[
                {"Id": str(index), "MessageBody": json.dumps(notification(each.ref, each.modified, self.region))}
                for index, each in enumerate(batch)
            ],
        )
        if answer.get("Failed"):
            raise Unavailable(f"the queue refused a message: {answer['Failed'][0].get('Message')}")
        return len(batch)

    def _length(self) -> int:
        name: Literal["ApproximateNumberOfMessages"] = "ApproximateNumberOfMessages"
        return int(self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=[name])["Attributes"][name])
