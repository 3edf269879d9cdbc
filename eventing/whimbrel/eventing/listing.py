"""Pages through a bucket: what lies under a prefix, in key order, one page in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.s3 import as_whimbrel_error, is_missing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_READS_AT_ONCE: Final = 8
_READ_AHEAD: Final = 64

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    etag: str
    modified: datetime


def folder(prefix: str) -> str:
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def entries(client: S3Client, bucket: str, prefix: str, *, leave_out: str | None = None) -> Iterator[Entry]:
    """Every `.json` key under a prefix. What lies under `leave_out` is jumped over, not paged through.

    Raises NotFound or Unavailable when the store fails.
    """
    after, more = "", True
    while more:
        listed, more = page(client, bucket, prefix, after)
        for entry in listed:
            if leave_out is not None and entry.key.startswith(leave_out):
                # U+10FFFF sorts after every character a key can go on with.
                after, more = leave_out + "\U0010ffff", True
                break
            after = entry.key
            if entry.key.endswith(".json"):
                yield entry


def read(client: S3Client, bucket: str, key: str) -> tuple[bytes, str] | None:
    """Content and ETag; None where there is no such key. Raises NotFound or Unavailable when the store fails."""
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]
    except ClientError as error:
        if is_missing(error) and error.response["Error"].get("Code") != "NoSuchBucket":
            return None
        raise as_whimbrel_error(error, f"reading {key!r} in bucket {bucket!r}") from error
    except BotoCoreError as error:
        raise as_whimbrel_error(error, f"reading {key!r} in bucket {bucket!r}") from error


def load_each(found: Iterable[Entry], load: Callable[[Entry], Loaded | None]) -> Iterator[Loaded]:
    """Load entries, a few at once, in their order; what is gone meanwhile (None) is left out."""
    remaining = iter(found)
    with ThreadPoolExecutor(_READS_AT_ONCE, "read") as threads:
        while ahead := list(islice(remaining, _READ_AHEAD)):
            yield from (loaded for loaded in threads.map(load, ahead) if loaded is not None)


def page(client: S3Client, bucket: str, prefix: str, after: str) -> tuple[list[Entry], bool]:
    """The first page of what comes after a key, and whether there is more. Raises NotFound or Unavailable."""
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix} | ({"StartAfter": after} if after else {})
    try:
        answer = client.list_objects_v2(**asked)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"listing {prefix!r} in bucket {bucket!r}") from error
    found = [Entry(each["Key"], each["ETag"], each["LastModified"]) for each in answer.get("Contents", [])]
    return found, bool(answer.get("IsTruncated")) and bool(found)
