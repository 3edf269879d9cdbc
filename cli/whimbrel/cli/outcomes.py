"""What became of every object of a bucket: all records of all versions, not only the latest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whimbrel.core.results import BY_VERSION, DeadLetter, Gone, Result, parse_gone, parse_result
from whimbrel.eventing.dead_letters import iterate
from whimbrel.eventing.listing import Entry, entries, load_each, read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Outcomes:
    """By object key; more than one entry under a key is more than one outcome of it."""

    results: Mapping[str, Sequence[Result]]
    gone: Mapping[str, Sequence[Gone]]
    letters: Mapping[str, Sequence[DeadLetter]]

    def of(self, key: str) -> list[Result | Gone | DeadLetter]:
        return [*self.results.get(key, ()), *self.gone.get(key, ()), *self.letters.get(key, ())]

    def __len__(self) -> int:
        return len(self.results.keys() | self.gone.keys() | self.letters.keys())


def read_outcomes(
    client: S3Client, bucket: str, results_bucket: str, dead_letters_bucket: str, prefix: str = ""
) -> Outcomes:
    """Read every record of the objects of `bucket` whose keys begin with `prefix` (plain path characters only)."""
    results: defaultdict[str, list[Result]] = defaultdict(list)
    gone: defaultdict[str, list[Gone]] = defaultdict(list)
    letters: defaultdict[str, list[DeadLetter]] = defaultdict(list)

    def load(entry: Entry) -> Result | Gone | None:
        found = read(client, results_bucket, entry.key)
        if found is None:
            return None
        return parse_gone(found[0]) if entry.key.endswith("/gone.json") else parse_result(found[0])

    records: Iterator[Result | Gone] = load_each(
        entries(client, results_bucket, f"{bucket}/{BY_VERSION}/{prefix}"), load
    )
    for record in records:
        if isinstance(record, Gone):
            gone[record.object.key].append(record)
        else:
            results[record.object.key].append(record)
    for stored in iterate(client, dead_letters_bucket):
        subject = str(stored.letter.event.get("subject", ""))
        if subject.startswith(prefix):
            letters[subject].append(stored.letter)
    return Outcomes(dict(results), dict(gone), dict(letters))


def count_outcomes(client: S3Client, bucket: str, results_bucket: str, dead_letters_bucket: str) -> int:
    """How many records there are, by listing alone: cheap enough for a progress bar."""
    written = sum(1 for _ in entries(client, results_bucket, f"{bucket}/{BY_VERSION}/"))
    return written + sum(1 for _ in entries(client, dead_letters_bucket, ""))
