"""Puts files where the registry keeps its artifacts: in the store itself, and not through the registry's server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import PackageRefused
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import as_whimbrel_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def folder_of(uri: str) -> Path | None:
    """The folder that a file:// address means; None for s3://. Raises PackageRefused for what the registry hides."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path))
    if parts.scheme == "s3":
        return None
    raise PackageRefused(
        f"expected a registry that keeps its artifacts at s3:// or file://, seen {uri!r}; run it with "
        "'--default-artifact-root s3://BUCKET/PREFIX --no-serve-artifacts'"
    )


def put_files(uri: str, files: Mapping[str, bytes], client: S3Client | None) -> None:
    """`files` by their names below `uri`, in place of what is there. Raises PackageRefused and what a store may."""
    folder = folder_of(uri)
    for name, content in files.items():
        if folder is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        elif client is None:
            raise PackageRefused(f"expected a client of the store that {uri} is in, seen none")
        else:
            _put(client, ObjectRef.from_uri(f"{uri.rstrip('/')}/{name}"), content)


def _put(client: S3Client, place: ObjectRef, content: bytes) -> None:
    try:
        client.put_object(Bucket=place.bucket, Key=place.key, Body=content)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"write of {place.uri}") from None
