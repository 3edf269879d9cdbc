"""Keeps what a rollout has asked and heard, beside the model: whoever goes on with it after a kill judges by it.

<prefix>/<rollout>/backtest.json            `Report`
<prefix>/<rollout>/backtest.html            the same for people
<prefix>/<rollout>/shadows/<time>-<id>.json  comparisons, some dozens each
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import TypeAdapter, ValidationError

from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import as_whimbrel_error, is_missing
from whimbrel.mlflow.rollout.comparing import Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_s3 import S3Client

MAX_SHADOW_FILES: Final = 20_000
MAX_BYTES: Final = 32 * 1024 * 1024
_COMPARISONS: Final = TypeAdapter(tuple[Comparison, ...])


class EvidenceStore:
    """Of one rollout, below `s3://bucket/prefix`. Blocks; raises NotFound and Unavailable as the store fails."""

    def __init__(self, client: S3Client, prefix: str, rollout: str) -> None:
        place = ObjectRef.from_uri(f"{prefix.rstrip('/')}/{rollout}")
        self._client, self._bucket, self._folder = client, place.bucket, place.key

    def uri(self, name: str) -> str:
        return ObjectRef(self._bucket, f"{self._folder}/{name}").uri

    def read_backtest(self) -> bytes | None:
        return self._read("backtest.json")

    def write_backtest(self, report: bytes, page: bytes) -> str:
        """The page first: the report says that both are there. Its address."""
        self._write("backtest.html", page, "text/html; charset=utf-8")
        self._write("backtest.json", report, "application/json")
        return self.uri("backtest.html")

    def add_shadows(self, comparisons: Sequence[Comparison]) -> None:
        name = f"shadows/{time.time():.3f}-{uuid.uuid4().hex[:8]}.json"
        self._write(name, _COMPARISONS.dump_json(tuple(comparisons)), "application/json")

    def read_shadows(self) -> list[Comparison]:
        """All of them, in the order of time. One that is malformed is refused: evidence is not guessed at."""
        found: list[Comparison] = []
        for name in self._shadow_names():
            content = self._read(name)
            try:
                found += _COMPARISONS.validate_json(content or b"[]")
            except ValidationError as error:
                raise InputRefused(
                    f"expected comparisons in {self.uri(name)}, seen {error.errors()[0]['msg']}"
                ) from None
        return sorted(found, key=lambda comparison: comparison.time)

    def read_object(self, uri: str, most_bytes: int) -> bytes | None:
        """A picture for the report; None where it is gone, too large or not to be read."""
        place = ObjectRef.from_uri(uri)
        try:
            answer = self._client.get_object(Bucket=place.bucket, Key=place.key)
            content = answer["Body"].read(most_bytes + 1)
        except (BotoCoreError, ClientError):
            return None
        return content if len(content) <= most_bytes else None

    def _shadow_names(self) -> list[str]:
        names: list[str] = []
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._folder}/shadows/"
            )
            for page in pages:
                names += [entry["Key"].removeprefix(f"{self._folder}/") for entry in page.get("Contents", [])]
                if len(names) > MAX_SHADOW_FILES:
                    raise InputRefused(
                        f"expected at most {MAX_SHADOW_FILES} objects below {self.uri('shadows')}, seen more"
                    )
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"list of {self.uri('shadows')}") from None
        return names

    def _read(self, name: str) -> bytes | None:
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=f"{self._folder}/{name}")["Body"]
            content = body.read(MAX_BYTES + 1)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and is_missing(error):
                return None
            raise as_whimbrel_error(error, f"read of {self.uri(name)}") from None
        if len(content) > MAX_BYTES:
            raise InputRefused(f"expected at most {MAX_BYTES} bytes in {self.uri(name)}, seen more")
        return content

    def _write(self, name: str, content: bytes, content_type: str) -> None:
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=f"{self._folder}/{name}", Body=content, ContentType=content_type
            )
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"write of {self.uri(name)}") from None
