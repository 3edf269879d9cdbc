"""Lists the objects of a bucket as they are now, page by page, with the place where the next page begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Position = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Listed:
    """The current version of one key. `seen_at` is the store's clock from before it was listed."""

    ref: ObjectRef
    modified: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """`unusable`: keys that no event can name, with the reason. `next` is None after the last page."""

    objects: tuple[Listed, ...]
    unusable: tuple[tuple[str, str], ...]
    next: Position | None


def pages(client: S3Client, bucket: str, prefix: str = "", position: Position | None = None) -> Iterator[Page]:
    """The current versions from a position on. Delete markers are none. Raises botocore's errors."""
    answer: Any = client.get_bucket_versioning(Bucket=bucket)
    versioned = "Status" in answer  # then events name versions, which the plain listing does not tell
    here: Position | None = position or {}
    while here is not None:
        clock = _clock(answer)
        asked: Any = {"Bucket": bucket, "Prefix": prefix, **here}
        answer = client.list_object_versions(**asked) if versioned else client.list_objects_v2(**asked)
        page = _page(bucket, answer, clock, versioned=versioned)
        here = page.next
        yield page


def _page(bucket: str, answer: Any, clock: datetime, *, versioned: bool) -> Page:
    objects: list[Listed] = []
    unusable: list[tuple[str, str]] = []
    entries = [each for each in answer.get("Versions", []) if each["IsLatest"]] if versioned else answer.get("Contents")
    for each in entries or []:
        version = each.get("VersionId")
        etag = each["ETag"].strip('"')
        try:
            ref = ObjectRef(bucket, each["Key"], etag, None if version == "null" else version, each["Size"])
        except InputRefused as error:
            unusable.append((each["Key"], str(error)))
        else:
            objects.append(Listed(ref, each["LastModified"], clock))
    return Page(tuple(objects), tuple(unusable), _next(answer, versioned=versioned))


def _next(answer: Any, *, versioned: bool) -> Position | None:
    if not answer.get("IsTruncated"):
        return None
    if versioned:
        return {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}
    # A key, not the store's continuation token, which need not outlive this listing.
    return {"StartAfter": answer["Contents"][-1]["Key"]}


def _clock(answer: Any) -> datetime:
    """The store's own clock: its Last-Modified and the times of its events are by it."""
    stated = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(stated).astimezone(UTC) if stated else datetime.now(UTC)
