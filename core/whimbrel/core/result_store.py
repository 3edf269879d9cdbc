"""Writes results by design contract 5: once per object version and model, the latest never by an older event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import Unavailable
from whimbrel.core.results import Gone, Result, dump, gone_key, latest_key, parse_result, replaces, result_key
from whimbrel.core.s3 import as_whimbrel_error, is_missing, is_precondition_failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PROBE_KEY = ".whimbrel/conditional-put-probe"
_MAX_RACES = 16  # writers of one key that may beat us in a row before the event is tried again


class Written(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class ResultStore:
    """The results of one bucket. `prefix` may hold `{bucket}`, the bucket of the object. Blocking; thread-safe."""

    client: S3Client
    bucket: str
    prefix: str = "{bucket}"

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

    def supports_conditional_puts(self) -> bool:
        """Ask the store itself, with two writes of one small key: the second has to be refused.

        Without them two deliveries at the same instant may both write, and an older event may win the latest.
        """
        try:
            self._put_once(_PROBE_KEY, b"")
            return not self._put_once(_PROBE_KEY, b"")
        except ClientError as error:
            if is_missing(error):
                raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error
            return False
        except BotoCoreError as error:
            raise as_whimbrel_error(error, f"looking at bucket {self.bucket!r}") from error

    def _prefix(self, bucket: str) -> str:
        return self.prefix.replace("{bucket}", bucket)

    def _put_once(self, key: str, body: bytes) -> bool:
        """False when the key exists already."""
        try:
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=body, ContentType="application/json", IfNoneMatch="*"
            )
        except ClientError as error:
            if is_precondition_failure(error):
                return False
            raise
        return True

    def _put_latest(self, key: str, result: Result) -> None:
        for _ in range(_MAX_RACES):
            if self._put_once(key, dump(result)):  # most keys are new: one request instead of two
                return
            stored = self._read(key)
            if stored is None:
                continue
            old, etag = stored
            if not replaces(result, old) or self._replace(key, dump(result), etag):
                return
        raise Unavailable(f"{_MAX_RACES} other writers replaced {key!r} meanwhile", retry_after_seconds=1)

    def _read(self, key: str) -> tuple[Result, str] | None:
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return parse_result(answer["Body"].read()), answer["ETag"]

    def _replace(self, key: str, body: bytes, etag: str) -> bool:
        """False when the key is no longer what was read."""
        try:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="application/json", IfMatch=etag)
        except ClientError as error:
            if is_precondition_failure(error) or is_missing(error):
                return False
            raise
        return True
