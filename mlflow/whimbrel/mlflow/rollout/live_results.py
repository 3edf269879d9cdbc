"""Live traffic as the bucket of the results tells it: what each version answered and how fast, and its dead letters.

A store lists by key and not by time, so each look walks on through a bounded part of the bucket and takes what was
written since the canary began; at the end it begins again. All is seen within one walk, however many requests it takes,
and a look costs the same in a bucket of any size. Which keys come early says nothing of the version that answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import InputRefused
from whimbrel.core.results import ANSWER, parse_dead_letter, parse_result
from whimbrel.core.s3 import as_whimbrel_error, is_missing
from whimbrel.mlflow.rollout.live import Live

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MOST_SEEN: Final = 50_000  # of one rollout; then no more are taken
_MAX_BYTES: Final = 1024 * 1024
_READERS: Final = 8
_SOURCE: Final = "results"


@dataclass
class Walk:
    """Through one bucket, in the order of its keys: `pages` of `page_keys` a look, and at most `most` that are fresh.
    Blocks."""

    client: S3Client
    bucket: str
    since: datetime
    pages: int = 5
    page_keys: int = 1000
    most: int = 200
    _after: str = ""
    _seen: set[str] = field(default_factory=set)

    def fresh(self, suffixes: tuple[str, ...]) -> list[str]:
        """Keys that end so, were written `since`, and were not given before."""
        found: list[str] = []
        if len(self._seen) >= MOST_SEEN:
            return found
        for key, modified in self._listed():
            self._after = key
            if modified >= self.since and key.endswith(suffixes) and key not in self._seen:
                self._seen.add(key)
                found.append(key)
                if len(found) == self.most:
                    return found
        return found

    def read(self, key: str) -> bytes | None:
        """None where it has gone; cut where no record of ours is that long."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read(_MAX_BYTES)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and is_missing(error):
                return None
            raise as_whimbrel_error(error, f"read of s3://{self.bucket}/{key}") from None

    def forget(self, key: str) -> None:
        """It is taken again at the next time round."""
        self._seen.discard(key)

    def _listed(self) -> Iterator[tuple[str, datetime]]:
        for _ in range(self.pages):
            try:
                page = self.client.list_objects_v2(Bucket=self.bucket, StartAfter=self._after, MaxKeys=self.page_keys)
            except (BotoCoreError, ClientError) as error:
                raise as_whimbrel_error(error, f"list of s3://{self.bucket}") from None
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["LastModified"]
            if not page.get("IsTruncated"):
                self._after = ""
                return


@dataclass
class ResultsSource:
    """Of the InferenceService `name`. `digests`: version by digest of its package, of champion and candidate."""

    name: str
    digests: Mapping[str, str]
    results: Walk
    dead_letters: Walk | None = None
    _answered: Counter[str] = field(default_factory=Counter)
    _failed: Counter[str] = field(default_factory=Counter)

    async def look(self) -> Live:
        return await asyncio.to_thread(self._look)

    def _look(self) -> Live:
        fresh: dict[str, Counter[float]] = {version: Counter() for version in self.digests.values()}
        suffixes = tuple(f"/{digest.removeprefix('sha256:')}.json" for digest in self.digests)
        for content in _contents(self.results, self.results.fresh(suffixes)):
            self._take_result(content, fresh)
        if self.dead_letters is not None:
            for content in _contents(self.dead_letters, self.dead_letters.fresh((".json",))):
                self._take_dead_letter(content)
        counts = {each: (self._answered[each], self._failed[each]) for each in self.digests.values()}
        return Live({_SOURCE: counts}, fresh)

    def _take_result(self, content: bytes, fresh: Mapping[str, Counter[float]]) -> None:
        try:
            result = parse_result(content)
        except InputRefused:
            return  # another's object among the results
        version = self.digests.get(result.model.digest)
        if version is None or result.model.name != self.name:
            return
        self._answered[version] += 1
        if ANSWER in result.timing_ms:
            fresh[version][result.timing_ms[ANSWER]] += 1

    def _take_dead_letter(self, content: bytes) -> None:
        try:
            version = self.digests.get(parse_dead_letter(content).error.model_digest or "")
        except InputRefused:
            return
        if version is not None:
            self._failed[version] += 1


def _contents(walk: Walk, keys: list[str]) -> list[bytes]:
    """What was not read because the store failed is taken again."""
    contents: list[bytes] = []
    with ThreadPoolExecutor(_READERS) as pool:
        reads = {key: pool.submit(walk.read, key) for key in keys}
    failures = {key: read.exception() for key, read in reads.items() if read.exception() is not None}
    for key in failures:
        walk.forget(key)
    contents += [content for key, read in reads.items() if key not in failures and (content := read.result())]
    if failures and not contents:
        raise next(each for each in failures.values() if each is not None)
    return contents
