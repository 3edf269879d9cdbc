"""Looking at dead letters and sending them again: what `whimbrel dead-letters` and the console call. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.cloudevent import binary
from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.core.results import DeadLetter, parse_dead_letter
from whimbrel.core.s3 import as_whimbrel_error
from whimbrel.eventing.dead_letter_record import replay_event
from whimbrel.eventing.listing import Entry, entries, folder, load_each, read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter, the key it lies at and the ETag of what was read."""

    key: str
    etag: str
    letter: DeadLetter


class Replayed(Enum):
    DELIVERED = "delivered"  # the record is deleted
    FAILED_AGAIN = "failed again"  # the dead-letter sink wrote the record anew meanwhile: it stays


def iterate(client: S3Client, bucket: str, prefix: str = "") -> Iterator[Stored]:
    """Every dead letter in key order, page by page. Another's object among them is left out."""

    def load(entry: Entry) -> Stored | None:
        try:
            return _stored(client, bucket, entry.key)
        except InputRefused:
            return None

    return load_each(entries(client, bucket, folder(prefix)), load)


def get(client: S3Client, bucket: str, key: str) -> Stored:
    """Raises NotFound where there is none (any more), InputRefused where something else lies at the key."""
    stored = _stored(client, bucket, key)
    if stored is None:
        raise NotFound(f"expected a dead letter at {key!r} in bucket {bucket!r}, seen none; it may have been replayed")
    return stored


def replay(client: S3Client, bucket: str, stored: Stored, broker: str, http: httpx.Client) -> Replayed:
    """Send the event to the broker again; delete the record once the broker accepted and nobody wrote it anew.

    Safe to repeat: until the broker accepted, the record stays; a second replay is a second delivery of one event,
    which the results recognise. Give `http` a timeout longer than all of the broker's retries: the broker answers
    when it has delivered. Raises Unavailable when it does not accept.
    """
    headers, body = binary(replay_event(stored.letter))
    try:
        answer = http.post(broker, headers=headers, content=body)
    except httpx.HTTPError as error:
        raise Unavailable(
            f"expected broker {broker} to take the event, seen {type(error).__name__}: {error}"
        ) from error
    if not answer.is_success:
        raise Unavailable(f"expected broker {broker} to take the event, seen {answer.status_code} {answer.text[:200]}")
    return _delete_if_same(client, bucket, stored)


def _delete_if_same(client: S3Client, bucket: str, stored: Stored) -> Replayed:
    now = read(client, bucket, stored.key)
    if now is not None and now[1] != stored.etag:
        return Replayed.FAILED_AGAIN
    try:
        client.delete_object(Bucket=bucket, Key=stored.key)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"deleting {stored.key!r} in bucket {bucket!r}") from error
    return Replayed.DELIVERED


def _stored(client: S3Client, bucket: str, key: str) -> Stored | None:
    found = read(client, bucket, key)
    return None if found is None else Stored(key, found[1], parse_dead_letter(found[0]))
