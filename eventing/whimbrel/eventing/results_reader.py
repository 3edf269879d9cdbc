"""Reading results: what `whimbrel results` and the console call. Blocking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.references import path_of_key
from whimbrel.core.results import BY_VERSION, Gone, Result, latest_key, parse_gone, parse_result
from whimbrel.eventing.listing import Entry, entries, folder, load_each, read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CLOCK_STEP: Final = timedelta(seconds=2)  # stores tell times in whole seconds
_BEFORE_ALL: Final = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ResultReader:
    """The results of one bucket of objects; `prefix` as the results sink has it.

    Methods raise NotFound or Unavailable when the store fails.
    """

    client: S3Client
    bucket: str
    object_bucket: str
    prefix: str = "{bucket}"

    def latest(self) -> Iterator[Result]:
        """The latest result of every key, in key order, page by page."""
        return load_each(self._latest_entries(), self._load)

    def get(self, key: str) -> Result:
        """The latest result of a key. Raises NotFound where it has none (yet)."""
        found = read(self.client, self.bucket, latest_key(self._prefix, key))
        if found is None:
            raise NotFound(f"expected a result of s3://{self.object_bucket}/{key} in bucket {self.bucket!r}, seen none")
        return parse_result(found[0])

    def versions(self, key: str) -> Iterator[Result | Gone]:
        """What is written about every version of a key, under every model."""
        start = f"{folder(self._prefix)}{BY_VERSION}/{path_of_key(key)}/"

        def load(entry: Entry) -> Result | Gone | None:
            if entry.key[len(start) :].count("/") != 1:  # a longer key with this one as its head
                return None
            found = read(self.client, self.bucket, entry.key)
            if found is None:
                return None
            return parse_gone(found[0]) if entry.key.endswith("/gone.json") else parse_result(found[0])

        return load_each(entries(self.client, self.bucket, start), load)

    def watch(
        self, stop: threading.Event, poll_seconds: float = 1.0, *, since: datetime | None = None
    ) -> Iterator[Result]:
        """Latest results as they are written, until `stop`; with `since` also those written from then on.

        Lists the bucket at each poll and remembers what was written around the last two, not every key.
        """
        newest = mark = since or max((entry.modified for entry in self._latest_entries()), default=_BEFORE_ALL)
        seen = set() if since else {_identity(e) for e in self._latest_entries() if e.modified >= mark - _CLOCK_STEP}
        mark -= _CLOCK_STEP if since is None else timedelta()
        while not stop.is_set():
            # A key that is written while its page is already read is newer than all that the pass before saw.
            listing = _Listing(mark, seen, next_mark=newest - _CLOCK_STEP)
            yield from load_each(listing.fresh(self._latest_entries()), self._load)
            mark, seen, newest = listing.next_mark, listing.next_seen, max(newest, listing.newest)
            stop.wait(poll_seconds)

    @property
    def _prefix(self) -> str:
        return self.prefix.replace("{bucket}", self.object_bucket)

    def _latest_entries(self) -> Iterator[Entry]:
        start = folder(self._prefix)
        return entries(self.client, self.bucket, start, leave_out=f"{start}{BY_VERSION}/")

    def _load(self, entry: Entry) -> Result | None:
        found = read(self.client, self.bucket, entry.key)
        try:
            return None if found is None else parse_result(found[0])
        except InputRefused:
            return None  # another's object among the results


@dataclass(slots=True)
class _Listing:
    """One pass of `watch`: what is new against the pass before, and what the next one has to remember."""

    mark: datetime
    seen: set[tuple[str, str]]
    next_mark: datetime
    next_seen: set[tuple[str, str]] = field(default_factory=set)
    newest: datetime = _BEFORE_ALL

    def fresh(self, listed: Iterator[Entry]) -> Iterator[Entry]:
        for entry in listed:
            self.newest = max(self.newest, entry.modified)
            if entry.modified >= self.next_mark:
                self.next_seen.add(_identity(entry))
            if entry.modified >= self.mark and _identity(entry) not in self.seen:
                yield entry


def _identity(entry: Entry) -> tuple[str, str]:
    return entry.key, entry.etag
