"""The model pointer in a real store: read by condition, replaced by condition, reported beside, never half believed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from testbed.stores import PAGE_KEYS
from whimbrel.core.attestations import Attestations, CompiledCode
from whimbrel.core.errors import NotFound, PackageRefused, Unavailable
from whimbrel.core.hardware import Target
from whimbrel.core.model_pointer import FORGOTTEN_AFTER_SECONDS, PointedVersion, Pointer, PointerStore, Replica
from whimbrel.core.references import ObjectRef

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DIGEST = "sha256:" + "1" * 64
FIRST = PointedVersion(version="1", uri="s3://models/digits/1", digest=DIGEST)
SECOND = PointedVersion(version="2", uri="s3://models/digits/2", digest=DIGEST)


@pytest.fixture
def store(s3: S3Client, bucket: str) -> PointerStore:
    return PointerStore(s3, ObjectRef(bucket, "digits/pointer.json"))


def test_a_reader_is_told_only_what_changed(store: PointerStore) -> None:
    with pytest.raises(NotFound):
        store.read()
    etag = store.write(Pointer(current=FIRST), None)

    read = store.read()
    assert read is not None
    assert (read.pointer.current, read.etag) == (FIRST, etag)
    assert store.read(etag) is None

    store.write(Pointer(current=FIRST, candidate=SECOND, share=5), etag)
    changed = store.read(etag)
    assert changed is not None
    assert changed.pointer.share == 5


def test_of_two_writers_one_loses(store: PointerStore) -> None:
    etag = store.write(Pointer(current=FIRST), None)
    store.write(Pointer(current=SECOND), etag)

    for known in (etag, None):
        with pytest.raises(Unavailable, match="read it again"):
            store.write(Pointer(current=FIRST), known)


def test_a_pointer_that_no_replica_would_read_is_not_written(store: PointerStore) -> None:
    etag = store.write(Pointer(current=FIRST), None)
    target = Target(torch="2", instruction_sets=tuple(f"an_instruction_set_{number}" for number in range(100)))
    code = [CompiledCode(target=target, dtype="float32", max_batch=2, sha256=f"{n:064}", size=1) for n in range(32)]
    large = SECOND.model_copy(update={"attestations": Attestations(compiled=tuple(code))})

    with pytest.raises(PackageRefused, match=r"at most 65536 bytes, seen .*whimbrel\.compiled\."):
        store.write(Pointer(current=large), etag)
    assert store.read(etag) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"schema": "whimbrel.dev/pointer/v2"}',
        b'{"current": {"version": "1", "uri": "s3://m/1"}}',
        Pointer(current=FIRST).model_dump_json(by_alias=True).replace('"share":0.0', '"share":5').encode(),
        Pointer(current=FIRST, candidate=SECOND).model_dump_json().replace('"2"', '"1"').encode(),
        b" " * 100_000,
    ],
)
def test_a_malformed_pointer_is_refused(store: PointerStore, s3: S3Client, content: bytes) -> None:
    s3.put_object(Bucket=store.place.bucket, Key=store.place.key, Body=content)

    with pytest.raises(PackageRefused, match=r"pointer\.json"):
        store.read()


def test_long_expired_reports_are_removed(store: PointerStore, s3: S3Client) -> None:
    for uid, ago in (("a", 60.0), ("b", 2 * FORGOTTEN_AFTER_SECONDS)):
        store.report(Replica(uid=uid, expires=time.time() - ago, pointer_etag="x", synced=True))

    assert store.live_replicas() == []
    listed = s3.list_objects_v2(Bucket=store.place.bucket, Prefix="digits/replicas/")["Contents"]
    assert [entry["Key"] for entry in listed] == ["digits/replicas/a.json"]


def test_reports_beyond_one_page_count(store: PointerStore, s3: S3Client) -> None:
    for number in range(PAGE_KEYS):
        s3.put_object(Bucket=store.place.bucket, Key=f"digits/replicas/{number:04}.json", Body=b"")
    live = Replica(uid="z", expires=time.time() + 60, pointer_etag="x", synced=True)
    store.report(live)
    assert s3.list_objects_v2(Bucket=store.place.bucket, Prefix="digits/replicas/")["IsTruncated"]

    assert store.live_replicas() == [live]


def test_only_live_reports_count(store: PointerStore, s3: S3Client) -> None:
    live = Replica(uid="a", expires=time.time() + 60, pointer_etag="x", synced=True)
    store.report(live)
    store.report(Replica(uid="b", expires=time.time() - 1, pointer_etag="x", synced=True))
    store.report(Replica(uid="c", expires=time.time() + 60, pointer_etag="x", synced=True))
    s3.put_object(Bucket=store.place.bucket, Key="digits/replicas/d.json", Body=b"{")
    store.forget("c")

    assert store.live_replicas() == [live]
