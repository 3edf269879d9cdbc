"""Objects read from a real store: that version or gone, within limits, and the store's failures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from testbed.stores import Store
from whimbrel.core.errors import NotFound, PayloadTooLarge, Unavailable
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import free_port
from whimbrel.transformers.fetch import ObjectGone, ObjectReader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.anyio

KEY = "Strand/größe 1+2.png"


@contextmanager
def reader_of(endpoint: str, *, max_bytes: int = 1000, max_seconds: float = 20) -> Iterator[ObjectReader]:
    settings = S3Settings(s3_endpoint=endpoint, s3_max_attempts=1, s3_read_timeout_seconds=5)
    client = s3_client(settings)
    reader = ObjectReader(client, threads=2, max_bytes=max_bytes, max_seconds=max_seconds)
    yield reader
    reader.close()
    client.close()


@pytest.fixture
def reader(store: Store) -> Iterator[ObjectReader]:
    with reader_of(store.endpoint) as reader:
        yield reader


async def test_reads_the_object_and_says_which_it_was(reader: ObjectReader, s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key=KEY, Body=b"one")["ETag"].strip('"')
    fetched = await reader.fetch(ObjectRef(bucket, KEY))
    assert fetched.content == b"one"
    assert fetched.ref == ObjectRef(bucket, KEY, etag=etag, size=3)
    assert (await reader.fetch(ObjectRef(bucket, KEY, etag=etag))).content == b"one"


async def test_reads_the_version_that_the_event_names(reader: ObjectReader, s3: S3Client, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first, second = (s3.put_object(Bucket=bucket, Key=KEY, Body=body)["VersionId"] for body in (b"one", b"two"))
    fetched = await reader.fetch(ObjectRef(bucket, KEY, version_id=first))
    assert fetched.content == b"one"
    assert fetched.ref == ObjectRef(bucket, KEY, version_id=first, size=3)
    assert (await reader.fetch(ObjectRef(bucket, KEY, version_id=second))).content == b"two"


async def test_an_overwritten_object_is_gone(reader: ObjectReader, s3: S3Client, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key=KEY, Body=b"one")["ETag"].strip('"')
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"two")
    with pytest.raises(ObjectGone, match=f"overwritten since: s3://{bucket}/.* no longer has the etag {etag}"):
        await reader.fetch(ObjectRef(bucket, KEY, etag=etag))


async def test_a_deleted_object_is_gone(reader: ObjectReader, bucket: str) -> None:
    with pytest.raises(ObjectGone, match=r"deleted since: .* \(NoSuchKey\)"):
        await reader.fetch(ObjectRef(bucket, KEY, etag="0" * 32))


async def test_a_deleted_version_and_a_delete_marker_are_gone(reader: ObjectReader, s3: S3Client, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key=KEY, Body=b"one")["VersionId"]
    marker = s3.delete_object(Bucket=bucket, Key=KEY)["VersionId"]
    with pytest.raises(ObjectGone, match="deleted since"):
        await reader.fetch(ObjectRef(bucket, KEY))
    with pytest.raises(ObjectGone, match=f"in version {marker}"):
        await reader.fetch(ObjectRef(bucket, KEY, version_id=marker))
    s3.delete_object(Bucket=bucket, Key=KEY, VersionId=version)
    with pytest.raises(ObjectGone, match=f"in version {version}"):
        await reader.fetch(ObjectRef(bucket, KEY, version_id=version))


async def test_a_missing_bucket_is_tried_again(reader: ObjectReader) -> None:
    with pytest.raises(NotFound, match="NoSuchBucket"):
        await reader.fetch(ObjectRef("no-such-bucket-here", KEY))


async def test_too_many_bytes_are_refused_before_and_after_the_store_was_asked(
    reader: ObjectReader, s3: S3Client, bucket: str
) -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 1000 bytes .* seen 1001"):
        await reader.fetch(ObjectRef("no-such-bucket-here", KEY, size=1001))
    s3.put_object(Bucket=bucket, Key=KEY, Body=b"x" * 1001)
    with pytest.raises(PayloadTooLarge, match="seen 1001"):
        await reader.fetch(ObjectRef(bucket, KEY))


async def test_a_store_that_is_away_is_waited_for() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with reader_of(nobody) as reader, pytest.raises(Unavailable, match="the store does not answer") as away:
        await reader.fetch(ObjectRef("photos", KEY))
    assert away.value.headers() == {"retry-after": "5"}


@contextmanager
def raw_store(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that answers one connection by hand: what no real store does on demand."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


async def test_a_body_that_ends_early_is_tried_again(store: Store) -> None:
    def cut_off(connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\netag: "a"\r\n\r\n' + b"x" * 100)

    refused = pytest.raises(Unavailable, match=r"reading s3://photos/a.png")
    with raw_store(cut_off) as endpoint, reader_of(endpoint) as reader, refused:
        await reader.fetch(ObjectRef("photos", "a.png"))


async def test_a_store_that_forbids_is_tried_again(store: Store) -> None:
    def forbid(connection: socket.socket) -> None:
        body = b"<Error><Code>AccessDenied</Code></Error>"
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    refused = pytest.raises(Unavailable, match=r"403 AccessDenied")
    with raw_store(forbid) as endpoint, reader_of(endpoint) as reader, refused:
        await reader.fetch(ObjectRef("photos", "a.png"))
