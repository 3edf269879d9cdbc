"""`whimbrel put`: files into a bucket, and, where asked, their labels back."""

from __future__ import annotations

import mimetypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.cli.connection import connect
from whimbrel.cli.console import progress_out, say
from whimbrel.cli.options import DEAD_LETTERS, DEFAULT_STATE, RESULTS, DeadLettersBucket, ResultsBucket, State
from whimbrel.cli.results import line
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.references import check_bucket, check_key, path_of_key
from whimbrel.core.results import DeadLetter, Gone, Result
from whimbrel.core.s3 import as_whimbrel_error
from whimbrel.eventing.dead_letters import iterate
from whimbrel.eventing.results_reader import ResultReader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Put:
    """An object as it was put: which version of its key, and when."""

    bucket: str
    key: str
    etag: str
    version_id: str | None
    started: datetime


def put(
    bucket: Annotated[str, typer.Argument(help="bucket to put the files in")],
    files: Annotated[list[Path], typer.Argument(help="files; each is put under its name")],
    prefix: Annotated[str, typer.Option(help="put before each name, in/ for instance")] = "",
    wait: Annotated[float, typer.Option(min=0, max=3600, help="seconds to wait for the labels; 0: do not wait")] = 0,
    results_bucket: ResultsBucket = RESULTS,
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    state: State = DEFAULT_STATE,
) -> None:
    """Put files in a bucket. With --wait, print the label of each, or why it was refused.

    Ends with 1 when one was refused or has no result after that time.
    """
    check_bucket(bucket)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputRefused(f"expected files, seen none at {', '.join(missing)}")
    client = connect(state).s3()
    done = [put_object(client, bucket, prefix + file.name, file.read_bytes()) for file in files]
    if not wait:
        for each in done:
            say(f"s3://{each.bucket}/{each.key}")
        return
    labelled = [_report(client, each, results_bucket, dead_letters_bucket, wait) for each in done]
    if not all(labelled):
        raise typer.Exit(1)


def put_object(client: S3Client, bucket: str, key: str, body: bytes) -> Put:
    """Put one object with the content type of its name. Raises NotFound or Unavailable when the store fails."""
    check_key(key)
    content_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
    started = datetime.now(UTC)
    try:
        answer = client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"putting {key!r} in bucket {bucket!r}") from error
    return Put(bucket, key, answer["ETag"].strip('"'), answer.get("VersionId"), started)


def _report(client: S3Client, put: Put, results_bucket: str, dead_letters_bucket: str, wait: float) -> bool:
    """Print what became of an object; whether it got its label."""
    found = _await_outcome(client, put, results_bucket, dead_letters_bucket, wait)
    if isinstance(found, Result):
        say(f"{line(found)}  {_took(found, put)}")
        return True
    if isinstance(found, DeadLetter):
        say(f"{put.key}  refused: {found.error.message or found.error.reason}")
    elif isinstance(found, Gone):
        say(f"{put.key}  gone: {found.reason}")
    else:
        progress_out.print(
            f"{put.key}  no result after {wait:g} s; look at 'whimbrel status', 'whimbrel dead-letters ls'",
            markup=False,
            soft_wrap=True,
        )
    return False


def _took(found: Result, put: Put) -> str:
    """From the put to the recorded result; the very same bytes under the same key may have had theirs before."""
    if found.recorded is None or found.recorded < put.started:
        return "known already"
    return f"{(found.recorded - put.started).total_seconds() * 1000:.0f} ms"


def _await_outcome(
    client: S3Client, put: Put, results_bucket: str, dead_letters_bucket: str, wait: float
) -> Result | Gone | DeadLetter | None:
    reader = ResultReader(client, results_bucket, put.bucket)
    deadline = time.monotonic() + wait
    while True:
        found = _result(reader, put) or _dead_letter(client, dead_letters_bucket, put)
        if found is not None or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)


def _result(reader: ResultReader, put: Put) -> Result | Gone | None:
    """What is recorded of this very version of the object; of the same bytes put before, their result."""
    version = put.version_id or put.etag
    try:
        latest = reader.get(put.key)
        if latest.object.ref.version == version:
            return latest
    except NotFound:
        pass
    recorded = (record for record in reader.versions(put.key) if record.object.ref.version == version)
    return next(recorded, None)


def _dead_letter(client: S3Client, bucket: str, put: Put) -> DeadLetter | None:
    for stored in iterate(client, bucket, path_of_key(put.key)):
        if stored.letter.received >= put.started:
            return stored.letter
    return None
