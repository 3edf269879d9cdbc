"""Listing goes page by page, and jumps over what is left out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from testbed.stores import PAGE_KEYS
from whimbrel.core.errors import NotFound
from whimbrel.eventing.listing import entries, read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_pages_and_what_is_left_out(s3: S3Client, bucket: str) -> None:
    shown = ["p/a.json", "p/b/c.json", "p/by-versions.json", *(f"p/z{n:04}.json" for n in range(PAGE_KEYS + 5))]
    hidden = [f"p/by-version/{n}.json" for n in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: s3.put_object(Bucket=bucket, Key=key), [*shown, *hidden, "p/x.txt", "q.json"]))
    assert s3.list_objects_v2(Bucket=bucket, Prefix="p/")["KeyCount"] == PAGE_KEYS
    asked: list[str] = []
    s3.meta.events.register("before-parameter-build.s3.ListObjectsV2", partial(_note, asked))
    found = [entry.key for entry in entries(s3, bucket, "p/", leave_out="p/by-version/")]
    assert found == sorted(shown)
    assert len(asked) == 3  # up to what is left out, and two pages after it


def test_reading_tells_a_missing_key_from_a_missing_bucket(s3: S3Client, bucket: str) -> None:
    assert read(s3, bucket, "none.json") is None
    with pytest.raises(NotFound, match="NoSuchBucket"):
        read(s3, f"{bucket}-other", "none.json")


def _note(asked: list[str], **call: object) -> None:
    asked.append(str(call["params"]))
