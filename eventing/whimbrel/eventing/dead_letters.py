"""Looking at dead letters and sending them again: what `whimbrel dead-letters` and the console call. Blocking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Final

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import InputRefused, NotFound, Unavailable, WhimbrelError
from whimbrel.core.results import DeadLetter, DeadLetterError, parse_dead_letter
from whimbrel.core.s3 import as_whimbrel_error
from whimbrel.eventing.dead_letter_record import replay_event
from whimbrel.eventing.listing import Entry, entries, folder, load_each, read
from whimbrel.eventing.posting import BROKER_TIMEOUT_SECONDS, post_event

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GIVE_UP_AFTER: Final = 5  # replays in a row that the broker did not take: it is away, not the event at fault


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter, the key it lies at and the ETag of what was read."""

    key: str
    etag: str
    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: all that fit every part that is given. `key` is the begin of the object's key."""

    reason: str | None = None
    status: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    key: str = ""

    def takes(self, letter: DeadLetter) -> bool:
        """`reason` is the error's name, in any case, or a part of its message."""
        error = letter.error
        return (
            (self.reason is None or self._is_reason(error))
            and self.status in (None, error.code)
            and (self.since is None or letter.received >= self.since)
            and (self.until is None or letter.received < self.until)
            and str(letter.event.get("subject", "")).startswith(self.key)
        )

    def _is_reason(self, error: DeadLetterError) -> bool:
        wanted = (self.reason or "").lower()
        return wanted == (error.reason or "").lower() or wanted in (error.message or "").lower()


class Replayed(Enum):
    DELIVERED = "delivered"  # the record is deleted
    FAILED_AGAIN = "failed again"  # the dead-letter sink wrote the record anew meanwhile: it stays


def iterate(client: S3Client, bucket: str, prefix: str = "", selection: Selection = Selection()) -> Iterator[Stored]:
    """The dead letters in key order, page by page. Another's object among them is left out."""

    def load(entry: Entry) -> Stored | None:
        try:
            stored = _stored(client, bucket, entry.key)
        except InputRefused:
            return None
        return stored if stored is not None and selection.takes(stored.letter) else None

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
    when it has delivered. Raises Unavailable when it does not accept it now, InputRefused when it never will.
    """
    post_event(http, broker, replay_event(stored.letter))
    return _delete_if_same(client, bucket, stored)


def replay_each(
    client: S3Client, bucket: str, letters: Iterable[Stored], broker: str, *, in_flight: int
) -> Iterator[tuple[Stored, Replayed | WhimbrelError]]:
    """Replay several at once, each told as it ends, so that one that is tried again for minutes holds up no other.

    Ends, and leaves the rest as they are, once the broker has taken none of the last few.
    """
    in_a_row = 0
    remaining = iter(letters)
    with _client(in_flight) as http, ThreadPoolExecutor(in_flight, "replay") as threads:
        under_way: dict[Future[Replayed], Stored] = {}
        while in_a_row < _GIVE_UP_AFTER or under_way:
            if in_a_row < _GIVE_UP_AFTER:
                for stored in islice(remaining, in_flight - len(under_way)):
                    under_way[threads.submit(replay, client, bucket, stored, broker, http)] = stored
            if not under_way:
                return
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = _outcome(future)
                in_a_row = in_a_row + 1 if isinstance(outcome, Unavailable) else 0
                yield under_way.pop(future), outcome


def purge(client: S3Client, bucket: str, stored: Stored) -> bool:
    """Delete one dead letter; False where it is no longer the one that was read."""
    return _delete_if_same(client, bucket, stored) is Replayed.DELIVERED


def _client(connections: int) -> httpx.Client:
    timeout = httpx.Timeout(BROKER_TIMEOUT_SECONDS, connect=5.0)
    return httpx.Client(timeout=timeout, limits=httpx.Limits(max_connections=connections))


def _outcome(future: Future[Replayed]) -> Replayed | WhimbrelError:
    try:
        return future.result()
    except WhimbrelError as error:
        return error


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
