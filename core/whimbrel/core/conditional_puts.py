"""Writes to a bucket that hold against other writers: a key once, or in place of what is older, as its store allows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import Unavailable
from whimbrel.core.s3 import as_whimbrel_error, error_code, is_missing, is_precondition_failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

JSON: Final = "application/json"

_UNKNOWN_HEADER_STATUSES: Final = (400, 501)
_PROBE_KEY: Final = ".whimbrel/conditional-put-probe"
_NO_ETAG: Final = '"00000000000000000000000000000000"'
_MAX_RACES: Final = 16  # writers of one key that may beat us in a row before the event is tried again


class IfMatch(Enum):
    """How a store wants the eTag in `If-Match`."""

    QUOTED = "quoted"  # as HTTP has it, and as the store gives it
    BARE = "bare"  # RGW 16.2 compares the header as it is with the eTag without its quotes
    ABSENT = "absent"  # it does not know the header, or ignores it


@dataclass(frozen=True, slots=True)
class Content:
    """What is put at a key."""

    body: bytes
    content_type: str = JSON
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies at a key."""

    body: bytes
    etag: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConditionalPuts:
    """One bucket. Blocking; thread-safe. Methods raise botocore's errors unless they say otherwise.

    Where the store has no `If-None-Match` (`once` False) or no `If-Match`, it is asked before each put instead;
    `weaknesses` says what is then not promised. `probed` finds out.
    """

    client: S3Client
    bucket: str
    once: bool = True
    if_match: IfMatch = IfMatch.QUOTED

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What two writers at the same instant can do that they should not, a sentence each."""
        twice = "it has no If-None-Match: two deliveries at the same instant may both write a result"
        latest = "it has no If-Match: an older event may replace the latest result of its key at the same instant"
        replaces_safely = self.once and self.if_match is not IfMatch.ABSENT
        return (() if self.once else (twice,)) + (() if replaces_safely else (latest,))

    def put_once(self, key: str, content: Content) -> bool:
        """False when the key exists already."""
        if not self.once:
            return not self._exists(key) and self._put(key, content)
        return self._put(key, content, IfNoneMatch="*")

    def put_newest(self, key: str, content: Content, gives_way: Callable[[Stored], bool]) -> bool:
        """Put unless what lies there does not give way. Raises Unavailable when others always were faster."""
        for _ in range(_MAX_RACES):
            if self.put_once(key, content):  # most keys are new: one request instead of two
                return True
            stored = self.read(key)
            if stored is None:
                continue
            if not gives_way(stored):
                return False
            if self._replace(key, content, stored.etag):
                return True
        raise Unavailable(f"{_MAX_RACES} other writers replaced {key!r} meanwhile", retry_after_seconds=1)

    def read(self, key: str) -> Stored | None:
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return Stored(answer["Body"].read(), answer["ETag"], answer.get("Metadata", {}))

    def probed(self) -> ConditionalPuts:
        """This bucket as it really is: conditional puts of one small key tell, those that are not met must be refused.

        A store that takes them ignores conditions; one that answers 400 or 501 knows none. Any other failure says
        nothing about that, and is raised: NotFound (no such bucket) or Unavailable.
        """
        conditional = replace(self, once=True)
        try:
            known = conditional._is_known(lambda: conditional.put_once(_PROBE_KEY, Content(b"")) or True)
            once = known and not conditional.put_once(_PROBE_KEY, Content(b""))
            return replace(self, once=once, if_match=self._probed_if_match() if once else IfMatch.ABSENT)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error

    def _probed_if_match(self) -> IfMatch:
        etag = self.client.head_object(Bucket=self.bucket, Key=_PROBE_KEY)["ETag"]
        for form in (IfMatch.QUOTED, IfMatch.BARE):
            puts = replace(self, once=True, if_match=form)
            met = functools.partial(puts._replace, _PROBE_KEY, Content(b""), etag)
            unmet = functools.partial(puts._replace, _PROBE_KEY, Content(b""), _NO_ETAG)
            if puts._is_known(met) and not puts._is_known(unmet):
                return form
        return IfMatch.ABSENT

    @staticmethod
    def _is_known(put: Callable[[], bool]) -> bool:
        """What a conditional put says; False also where the store does not know the header."""
        try:
            return put()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in _UNKNOWN_HEADER_STATUSES:
                return False
            raise

    def _replace(self, key: str, content: Content, etag: str) -> bool:
        """False when the key is no longer what was read."""
        if not self.once or self.if_match is IfMatch.ABSENT:
            return self._put(key, content)
        return self._put(key, content, IfMatch=etag.strip('"') if self.if_match is IfMatch.BARE else etag)

    def _put(self, key: str, content: Content, **condition: str) -> bool:
        """False when the condition does not hold (S3 answers 404 to If-Match where there is no such key)."""
        asked: dict[str, Any] = {"ContentType": content.content_type, "Metadata": dict(content.metadata), **condition}
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content.body, **asked)
        except ClientError as error:
            if is_precondition_failure(error) or error_code(error) == "NoSuchKey":
                return False
            raise
        return True

    def _exists(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        return True
