"""Writes results by design contract 5: once per object version and model, the latest never by an older event."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.conditional_puts import ConditionalPuts, Content, IfMatch
from whimbrel.core.errors import InputRefused
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
from whimbrel.core.s3 import as_whimbrel_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)


class Written(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class ResultStore:
    """The results of one bucket. `prefix` may hold `{bucket}`, the bucket of the object. Blocking; thread-safe.

    `conditional_puts` and `if_match` are what its store knows of conditional puts, which `probed` finds out;
    `weaknesses` says what is not promised without them. `keeps_latest` False leaves out the latest of each key.
    """

    client: S3Client
    bucket: str
    prefix: str = "{bucket}"
    conditional_puts: bool = True
    if_match: IfMatch = IfMatch.QUOTED
    keeps_latest: bool = True

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What two writers at the same instant can do that they should not, a sentence each."""
        return self._puts.weaknesses

    def write(self, result: Result) -> Written:
        """Write a result once, then make it the latest of its key where its event is the newest.

        The second step is repeated for a duplicate: the first writer may have been killed between the two.
        Raises NotFound or Unavailable when the store fails; then nothing is lost by trying again.
        """
        result = result.model_copy(update={"recorded": datetime.now(UTC)})
        prefix = self._prefix(result.object.bucket)
        ref = result.object.ref
        try:
            new = self._puts.put_once(result_key(prefix, ref, result.model.digest), Content(dump(result)))
            if self.keeps_latest:
                latest, content = latest_key(prefix, ref.key), Content(dump(result))
                self._puts.put_newest(latest, content, lambda stored: _gives_way(stored.body, result))
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"writing the result of {ref.uri} to bucket {self.bucket!r}") from error
        return Written.NEW if new else Written.DUPLICATE

    def write_gone(self, gone: Gone) -> Written:
        gone = gone.model_copy(update={"recorded": datetime.now(UTC)})
        ref = gone.object.ref
        try:
            new = self._puts.put_once(gone_key(self._prefix(ref.bucket), ref), Content(dump(gone)))
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
                stored = self._puts.read(each["Key"])
                if stored is not None and (record := _record(each["Key"][len(folder) + 1 :], stored.body)) is not None:
                    yield record
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"reading what is known of {ref.uri} in bucket {self.bucket!r}") from error

    def probed(self) -> ResultStore:
        """This store as it really is. Raises NotFound (no such bucket) or Unavailable."""
        puts = self._puts.probed()
        return replace(self, conditional_puts=puts.once, if_match=puts.if_match)

    @property
    def _puts(self) -> ConditionalPuts:
        return ConditionalPuts(self.client, self.bucket, self.conditional_puts, self.if_match)

    def _prefix(self, bucket: str) -> str:
        return self.prefix.replace("{bucket}", bucket)


def _record(name: str, content: bytes) -> Result | Gone | None:
    try:
        return parse_gone(content) if name == GONE_NAME else parse_result(content)
    except InputRefused:
        return None


def _gives_way(content: bytes, result: Result) -> bool:
    """Whether what lies at the latest's key gives way: an older result, or what is no result of this schema."""
    try:
        return replaces(result, parse_result(content))
    except InputRefused as error:
        logger.warning("the latest result of %r is replaced, it is none: %s", result.object.key, error)
        return True
