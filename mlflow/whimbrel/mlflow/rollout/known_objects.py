"""Objects that both versions can be asked about: a list in the store, with the truth where somebody knows it.

JSON lines, `{"uri": "s3://photos/digits/0007.png", "label": "seven"}`; `label` may be absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import as_whimbrel_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Beside the model's pointer, in the bucket `models`: what its rollouts ask about unless they are told otherwise.
NAME: Final = "known.jsonl"
MAX_OBJECTS: Final = 10_000
MAX_BYTES: Final = 8 * 1024 * 1024


class KnownObject(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(pattern=r"^s3://[^/]+/.+$", max_length=4000)
    label: str | None = Field(default=None, max_length=1000)


def read_known_objects(client: S3Client, uri: str) -> tuple[KnownObject, ...]:
    """Blocks. Raises NotFound and Unavailable, and InputRefused that names the first line that is none."""
    place = ObjectRef.from_uri(uri)
    try:
        content = client.get_object(Bucket=place.bucket, Key=place.key)["Body"].read(MAX_BYTES + 1)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"read of the known objects {uri}") from None
    if len(content) > MAX_BYTES:
        raise InputRefused(f"expected at most {MAX_BYTES} bytes of known objects in {uri}, seen more")
    return parse_known_objects(content, uri)


def write_known_objects(client: S3Client, uri: str, objects: Iterable[KnownObject]) -> None:
    """Blocks. Raises NotFound and Unavailable."""
    place = ObjectRef.from_uri(uri)
    try:
        client.put_object(Bucket=place.bucket, Key=place.key, Body=dump_known_objects(objects))
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"write of the known objects {uri}") from None


def parse_known_objects(content: bytes, origin: str) -> tuple[KnownObject, ...]:
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(KnownObject.model_validate_json(line))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "line"
            raise InputRefused(f"{origin}, line {number}: {where}: {fault['msg']}") from None
    if not 1 <= len(found) <= MAX_OBJECTS:
        raise InputRefused(f"{origin}: expected 1 to {MAX_OBJECTS} known objects, seen {len(found)}")
    return tuple(found)


def dump_known_objects(objects: Iterable[KnownObject]) -> bytes:
    return b"".join(each.model_dump_json(exclude_none=True).encode() + b"\n" for each in objects)
