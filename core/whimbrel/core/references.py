"""Which object: a bucket, a key and, where known, which version of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from whimbrel.core.errors import InputRefused

MAX_KEY_BYTES = 1024  # S3's own limit on the UTF-8 form of a key

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One object in a store, as an event or a request names it.

    `etag` is without quotes. `version_id` is None on a bucket without versions. `size` is in bytes. All three
    are None where the event's source does not tell.
    """

    bucket: str
    key: str
    etag: str | None = None
    version_id: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        check_key(self.key)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{quote(self.key)}"

    @property
    def version(self) -> str:
        """The `<object version>` of contract 5: versionId, else eTag, else `unversioned`."""
        return self.version_id or self.etag or "unversioned"

    @classmethod
    def from_uri(cls, uri: str) -> ObjectRef:
        """Parse `s3://bucket/key`, the key percent-encoded as in any URI.

        Raises InputRefused when the scheme, the bucket or the key is missing.
        """
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc or len(parts.path) < 2:
            raise InputRefused(f"expected an object reference s3://BUCKET/KEY, seen {uri!r}")
        return cls(bucket=parts.netloc, key=unquote(parts.path[1:]))


def check_bucket(bucket: str) -> None:
    if not bucket or "/" in bucket or any(ord(character) < 33 for character in bucket):
        raise InputRefused(f"expected a bucket name, seen {bucket!r}")


def check_key(key: str) -> None:
    """Refuse what no store accepts or what no path may be built from."""
    if not key:
        raise InputRefused("expected an object key, seen an empty one")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise InputRefused(f"expected an object key in UTF-8, seen {key!r}") from None
    if len(encoded) > MAX_KEY_BYTES:
        raise InputRefused(f"expected an object key of at most {MAX_KEY_BYTES} bytes, seen {len(encoded)}")
    if _CONTROL.search(key):
        raise InputRefused(f"expected an object key without control characters, seen {key!r}")


def path_of_key(key: str) -> str:
    """A form of `key` that is safe as part of another key.

    `.` and `..` segments and empty segments are percent-encoded (some stores normalise them away), and a key
    whose encoded form grew past S3's limit keeps a readable head and ends with its sha256.
    """
    segments = [quote(segment, safe=" !'()*+,;=@&$:") for segment in key.split("/")]
    path = "/".join({"": "%00", ".": "%2E", "..": "%2E%2E"}.get(segment, segment) for segment in segments)
    if len(path) <= 512:
        return path
    return f"{path[:400].rstrip('%')}~{hashlib.sha256(key.encode()).hexdigest()}"
