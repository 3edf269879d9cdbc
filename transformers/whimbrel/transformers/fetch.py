"""Reads the object that an event names: that very version of it, within limits, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from whimbrel.core.errors import PayloadTooLarge, Unavailable
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import as_whimbrel_error, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CHUNK_BYTES = 256 * 1024

# 405 is the answer to reading a delete marker by its version.
_GONE = frozenset({"NoSuchKey", "NoSuchVersion", "PreconditionFailed", "MethodNotAllowed", "404", "405", "412"})


class ObjectGone(Exception):
    """The object, or that version of it, was deleted or overwritten since: recorded, not a failure."""


@dataclass(frozen=True, slots=True)
class FetchedObject:
    """`ref` is the event's, with the etag and the size of what was read where the event told neither."""

    ref: ObjectRef
    content: bytes


class ObjectReader:
    """Has the threads that read; `close` them."""

    def __init__(self, client: S3Client, *, threads: int, max_bytes: int, max_seconds: float) -> None:
        self._client, self._max_bytes, self._max_seconds = client, max_bytes, max_seconds
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch")

    async def fetch(self, ref: ObjectRef) -> FetchedObject:
        """Raises ObjectGone; PayloadTooLarge; NotFound for a missing bucket, Unavailable for all else (tried again)."""
        if ref.size is not None:
            _check_size(ref, ref.size, self._max_bytes)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read, ref)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, ref: ObjectRef) -> FetchedObject:
        with _failures_as_ours(ref):
            answer: Any = self._client.get_object(Bucket=ref.bucket, Key=ref.key, **_which_version(ref))
            with closing(answer["Body"]) as body:  # entered itself, it gives the stream that checks no length
                _check_size(ref, answer["ContentLength"], self._max_bytes)
                content = self._read_body(ref, body)
        etag = answer.get("ETag", "").strip('"') or None
        unidentified = ref.version_id is None and ref.etag is None
        complete = replace(ref, etag=etag if unidentified else ref.etag, size=len(content))
        return FetchedObject(complete, content)

    def _read_body(self, ref: ObjectRef, body: Any) -> bytes:
        content, deadline = bytearray(), time.monotonic() + self._max_seconds
        while chunk := body.read(_CHUNK_BYTES):
            content += chunk
            _check_size(ref, len(content), self._max_bytes)
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"reading {ref.uri}: {len(content)} bytes came in {self._max_seconds:g} s", retry_after_seconds=5
                )
        return bytes(content)


def _which_version(ref: ObjectRef) -> Any:
    if ref.version_id is not None:
        return {"VersionId": ref.version_id}
    if ref.etag is not None:
        return {"IfMatch": f'"{ref.etag}"'}
    return {}


def _check_size(ref: ObjectRef, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise PayloadTooLarge(f"expected an image of at most {max_bytes} bytes at {ref.uri}, seen {size}")


@contextmanager
def _failures_as_ours(ref: ObjectRef) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error_code(error) in _GONE:
            raise ObjectGone(_reason(ref, error)) from None
        raise as_whimbrel_error(error, f"reading {ref.uri}") from None
    except BotoCoreError as error:
        raise as_whimbrel_error(error, f"reading {ref.uri}") from None
    except (HTTPError, OSError) as error:  # the connection broke while the body was read
        raise Unavailable(f"reading {ref.uri}: {error}", retry_after_seconds=5) from None


def _reason(ref: ObjectRef, error: ClientError) -> str:
    if error_code(error) in ("PreconditionFailed", "412"):
        return f"overwritten since: {ref.uri} no longer has the etag {ref.etag}"
    version = f" in version {ref.version_id}" if ref.version_id is not None else ""
    return f"deleted since: {ref.uri}{version} ({error_code(error)})"
