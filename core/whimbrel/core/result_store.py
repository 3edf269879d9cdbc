"""Writes results by design contract 5: once per object version and model, the latest never by an older event."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.references import ObjectRef
from whimbrel.core.results import (
    GONE_NAME,
    Gone,
    Result,
    dump,
    gone_key,
    latest_key,
    parse_gone,
    parse_result,
    replaces,
    result_key,
    version_folder,
)
from whimbrel.core.s3 import as_whimbrel_error, error_code, is_missing, is_precondition_failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

_UNKNOWN_HEADER_STATUSES: Final = (400, 501)
_PROBE_KEY = ".whimbrel/conditional-put-probe"
_NO_ETAG: Final = '"00000000000000000000000000000000"'
_MAX_RACES = 16  # writers of one key that may beat us in a row before the event is tried again


class Written(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"


class IfMatch(Enum):
    """How a store wants the eTag in `If-Match`."""

    QUOTED = "quoted"  # as HTTP has it, and as the store gives it
    BARE = "bare"  # RGW 16.2 compares the header as it is with the eTag without its quotes
    ABSENT = "absent"  # it does not know the header, or ignores it


@dataclass(frozen=True, slots=True)
class ResultStore:
    """The results of one bucket. `prefix` may hold `{bucket}`, the bucket of the object. Blocking; thread-safe.

    Where the store has no `If-None-Match` (`conditional_puts` False) or no `If-Match`, it is asked before each put
    instead; `weaknesses` says what is then not promised. `probed` finds out.
    """

    client: S3Client
    bucket: str
    prefix: str = "{bucket}"
    conditional_puts: bool = True
    if_match: IfMatch = IfMatch.QUOTED

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What two writers at the same instant can do that they should not, a sentence each."""
        once = "it has no If-None-Match: two deliveries at the same instant may both write a result"
        latest = "it has no If-Match: an older event may replace the latest result of its key at the same instant"
        replaces_safely = self.conditional_puts and self.if_match is not IfMatch.ABSENT
        return (() if self.conditional_puts else (once,)) + (() if replaces_safely else (latest,))

    def write(self, result: Result) -> Written:
        """Write a result once, then make it the latest of its key where its event is the newest.

        The second step is repeated for a duplicate: the first writer may have been killed between the two.
        Raises NotFound or Unavailable when the store fails; then nothing is lost by trying again.
        """
        result = result.model_copy(update={"recorded": datetime.now(UTC)})
        prefix = self._prefix(result.object.bucket)
        ref = result.object.ref
        try:
            new = self._put_once(result_key(prefix, ref, result.model.digest), dump(result))
            self._put_latest(latest_key(prefix, ref.key), result)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"writing the result of {ref.uri} to bucket {self.bucket!r}") from error
        return Written.NEW if new else Written.DUPLICATE

    def write_gone(self, gone: Gone) -> Written:
        gone = gone.model_copy(update={"recorded": datetime.now(UTC)})
        ref = gone.object.ref
        try:
            new = self._put_once(gone_key(self._prefix(ref.bucket), ref), dump(gone))
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"recording {ref.uri} as gone in bucket {self.bucket!r}") from error
        return Written.NEW if new else Written.DUPLICATE

    def recorded(self, ref: ObjectRef) -> Iterator[Result | Gone]:
        """What is written about one object version, under every model; another's objects are left out.

        Raises NotFound or Unavailable when the store fails.
        """
        folder = version_folder(self._prefix(ref.bucket), ref)
        try:
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{folder}/")
            for each in (each for page in pages for each in page.get("Contents", [])):
                stored = self._read(each["Key"])
                if stored is not None and (record := _record(each["Key"][len(folder) + 1 :], stored[0])) is not None:
                    yield record
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"reading what is known of {ref.uri} in bucket {self.bucket!r}") from error

    def probed(self) -> ResultStore:
        """This store as it really is: conditional puts of one small key tell, those that are not met must be refused.

        A store that takes them ignores conditions; one that answers 400 or 501 knows none. Any other failure says
        nothing about that, and is raised: NotFound (no such bucket) or Unavailable.
        """
        try:
            conditional = replace(self, conditional_puts=True)
            known = conditional._is_known(lambda: conditional._put_once(_PROBE_KEY, b"") or True)
            once = known and not conditional._put_once(_PROBE_KEY, b"")
            return replace(self, conditional_puts=once, if_match=self._probed_if_match() if once else IfMatch.ABSENT)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error

    def _probed_if_match(self) -> IfMatch:
        etag = self.client.head_object(Bucket=self.bucket, Key=_PROBE_KEY)["ETag"]
        for form in (IfMatch.QUOTED, IfMatch.BARE):
            store = replace(self, conditional_puts=True, if_match=form)
            met = functools.partial(store._replace, _PROBE_KEY, b"", etag)
            unmet = functools.partial(store._replace, _PROBE_KEY, b"", _NO_ETAG)
            if store._is_known(met) and not store._is_known(unmet):
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

    def _prefix(self, bucket: str) -> str:
        return self.prefix.replace("{bucket}", bucket)

    def _put_once(self, key: str, body: bytes) -> bool:
        """False when the key exists already."""
        if not self.conditional_puts:
            return not self._exists(key) and self._put(key, body)
        return self._put(key, body, IfNoneMatch="*")

    def _put_latest(self, key: str, result: Result) -> None:
        for _ in range(_MAX_RACES):
            if self._put_once(key, dump(result)):  # most keys are new: one request instead of two
                return
            stored = self._read(key)
            if stored is None:
                continue
            content, etag = stored
            if not _replaceable(content, result) or self._replace(key, dump(result), etag):
                return
        raise Unavailable(f"{_MAX_RACES} other writers replaced {key!r} meanwhile", retry_after_seconds=1)

    def _read(self, key: str) -> tuple[bytes, str] | None:
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return answer["Body"].read(), answer["ETag"]

    def _replace(self, key: str, body: bytes, etag: str) -> bool:
        """False when the key is no longer what was read."""
        if not self.conditional_puts or self.if_match is IfMatch.ABSENT:
            return self._put(key, body)
        return self._put(key, body, IfMatch=etag.strip('"') if self.if_match is IfMatch.BARE else etag)

    def _put(self, key: str, body: bytes, **condition: str) -> bool:
        """False when the condition does not hold (S3 answers 404 to If-Match where there is no such key)."""
        asked: dict[str, Any] = {"Bucket": self.bucket, "Key": key, "ContentType": "application/json", **condition}
        try:
            self.client.put_object(Body=body, **asked)
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


def _record(name: str, content: bytes) -> Result | Gone | None:
    try:
        return parse_gone(content) if name == GONE_NAME else parse_result(content)
    except InputRefused:
        return None


def _replaceable(content: bytes, result: Result) -> bool:
    """Whether what lies at the latest's key gives way: an older result, or what is no result of this schema."""
    try:
        return replaces(result, parse_result(content))
    except InputRefused as error:
        logger.warning("the latest result of %r is replaced, it is none: %s", result.object.key, error)
        return True
