"""`whimbrel dead-letters`: what was refused or given up, why, and once more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import httpx
import typer

from whimbrel.cli.connection import connect
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.options import DEAD_LETTERS, DEFAULT_STATE, DeadLettersBucket, OutputFormat, State
from whimbrel.core.errors import InputRefused
from whimbrel.eventing.dead_letters import Replayed, Stored, get, iterate, replay

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BROKER_TIMEOUT_SECONDS = 3600  # the broker answers when it has delivered, all retries included

app = typer.Typer(no_args_is_help=True, help="See what was refused or given up and why; send it again.")


@app.command()
def ls(
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="most dead letters to list")] = 1000,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """List every dead letter with its reason."""
    letters = list(islice(iterate(connect(state).s3(), dead_letters_bucket), limit))
    if output is Output.JSON:
        print_json([{"key": stored.key, **_document(stored)} for stored in letters])
        return
    rows = (
        (stored.key, letter.error.code, letter.attempts, letter.replays, letter.error.message or letter.error.reason)
        for stored in letters
        for letter in (stored.letter,)
    )
    out.print(add_rows(table("DEAD LETTER", "STATUS", "ATTEMPTS", "REPLAYS", "WHY"), rows))


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="as `ls` lists it")],
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    state: State = DEFAULT_STATE,
) -> None:
    """Print one dead letter as JSON: the event, the error, the attempts."""
    print_json(get(connect(state).s3(), dead_letters_bucket, key).letter)


@app.command(name="replay")
def replay_command(
    keys: Annotated[list[str] | None, typer.Argument(help="as `ls` lists them")] = None,
    every: Annotated[bool, typer.Option("--all", help="all of them")] = False,
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    state: State = DEFAULT_STATE,
) -> None:
    """Send dead letters to the broker again; each one that is delivered now is deleted. Safe to repeat."""
    if bool(keys) == every:
        raise InputRefused("expected the keys of dead letters or --all, seen " + ("both" if keys else "neither"))
    connection = connect(state)
    client = connection.s3()
    failed = 0
    with httpx.Client(timeout=_BROKER_TIMEOUT_SECONDS) as http:
        for stored in _chosen(client, dead_letters_bucket, keys):
            outcome = replay(client, dead_letters_bucket, stored, connection.broker(), http)
            failed += outcome is Replayed.FAILED_AGAIN
            say(f"{stored.key}  {outcome.value}")
    if failed:
        raise typer.Exit(1)


def _chosen(client: S3Client, bucket: str, keys: list[str] | None) -> Iterator[Stored]:
    if keys:
        return (get(client, bucket, key) for key in keys)
    return iterate(client, bucket)


def _document(stored: Stored) -> dict[str, object]:
    return stored.letter.model_dump(mode="json", by_alias=True, exclude_none=True)
