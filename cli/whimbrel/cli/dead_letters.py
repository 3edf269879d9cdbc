"""`whimbrel dead-letters`: what was refused or given up, why, and once more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from whimbrel.cli.connection import connect
from whimbrel.cli.console import Output, add_rows, out, print_json, progress_out, say, table
from whimbrel.cli.moments import moment
from whimbrel.cli.options import DEAD_LETTERS, DEFAULT_STATE, DeadLettersBucket, OutputFormat, State
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.eventing.dead_letters import Replayed, Selection, Stored, get, iterate, purge, replay_each

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

app = typer.Typer(no_args_is_help=True, help="See what was refused or given up and why; send it again, or delete it.")

Keys = Annotated[list[str] | None, typer.Argument(help="as `ls` lists them")]
Every = Annotated[bool, typer.Option("--all", help="all of them")]
Reason = Annotated[str | None, typer.Option(help="the error's name (UnsupportedImage) or a part of its message")]
Status = Annotated[int | None, typer.Option(min=100, max=599, help="the status that the last attempt got")]
Since = Annotated[str | None, typer.Option(help="received at or after: a time, or 30m, 2h, 7d ago")]
Until = Annotated[str | None, typer.Option(help="received before: a time, or 30m, 2h, 7d ago")]
Key = Annotated[str, typer.Option(help="begin of the object's key")]


@app.command()
def ls(
    reason: Reason = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    key: Key = "",
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="most dead letters to list")] = 1000,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """List dead letters with their reasons: those that fit every option."""
    selection = _selection(reason, status, since, until, key)
    letters = list(islice(iterate(connect(state).s3(), dead_letters_bucket, selection=selection), limit))
    if output is Output.JSON:
        print_json([{"key": stored.key, **_document(stored)} for stored in letters])
        return
    out.print(
        add_rows(
            table("DEAD LETTER", "RECEIVED", "STATUS", "ATTEMPTS", "REPLAYS", "WHY"),
            (_row(stored) for stored in letters),
        )
    )


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
    keys: Keys = None,
    every: Every = False,
    reason: Reason = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    key: Key = "",
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="most events at once")] = 8,
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    state: State = DEFAULT_STATE,
) -> None:
    """Send dead letters to the broker again; each one that is delivered now is deleted.

    Safe to repeat and to kill: a record stays until its event was delivered. Ends with 1 when one failed again.
    """
    selection = _selection(reason, status, since, until, key)
    _check_chosen(keys, every, selection)
    connection = connect(state)
    client = connection.s3()
    failed, missing = 0, list[str]()
    chosen = _chosen(client, dead_letters_bucket, keys, selection, missing)
    for stored, outcome in replay_each(client, dead_letters_bucket, chosen, connection.broker(), in_flight=in_flight):
        failed += outcome is not Replayed.DELIVERED
        say(f"{stored.key}  {outcome.value if isinstance(outcome, Replayed) else outcome}")
    if failed or missing:
        raise typer.Exit(1)


@app.command(name="purge")
def purge_command(
    keys: Keys = None,
    every: Every = False,
    reason: Reason = None,
    status: Status = None,
    since: Since = None,
    until: Until = None,
    key: Key = "",
    yes: Annotated[bool, typer.Option("--yes", help="do it; without this, only list what would be deleted")] = False,
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    state: State = DEFAULT_STATE,
) -> None:
    """Delete dead letters for good: their objects then have no outcome. Without --yes nothing is deleted."""
    selection = _selection(reason, status, since, until, key)
    _check_chosen(keys, every, selection)
    client = connect(state).s3()
    purged, missing = 0, list[str]()
    for stored in _chosen(client, dead_letters_bucket, keys, selection, missing):
        deleted = yes and purge(client, dead_letters_bucket, stored)
        purged += deleted
        say(f"{stored.key}  {'deleted' if deleted else 'written anew meanwhile: kept' if yes else 'would be deleted'}")
    progress_out.print(f"{purged} deleted" if yes else "nothing was deleted; --yes does it")
    if missing:
        raise typer.Exit(1)


def _selection(reason: str | None, status: int | None, since: str | None, until: str | None, key: str) -> Selection:
    if reason == "":  # a part of every message
        raise InputRefused("expected a reason with --reason, seen an empty one")
    now = datetime.now(UTC)
    begin, end = (None if text is None else moment(text, now) for text in (since, until))
    return Selection(reason, status, begin, end, key)


def _check_chosen(keys: list[str] | None, every: bool, selection: Selection) -> None:
    given = [
        name
        for name, is_given in (("keys", bool(keys)), ("--all", every), ("a selection", selection != Selection()))
        if is_given
    ]
    if len(given) != 1:
        seen = " and ".join(given) or "neither"
        raise InputRefused(
            "expected the keys of dead letters, --all or a selection (--reason, --status, --since, --until, --key), "
            f"seen {seen}"
        )


def _chosen(
    client: S3Client, bucket: str, keys: list[str] | None, selection: Selection, missing: list[str]
) -> Iterator[Stored]:
    """Those that are there; a key that is not, as after a replay that was killed, is said and noted in `missing`."""
    if not keys:
        yield from iterate(client, bucket, selection=selection)
        return
    for key in keys:
        try:
            yield get(client, bucket, key)
        except NotFound as error:
            missing.append(key)
            progress_out.print(str(error), markup=False, soft_wrap=True)


def _row(stored: Stored) -> tuple[object, ...]:
    letter = stored.letter
    received = letter.received.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    why = letter.error.message or letter.error.reason
    return (stored.key, received, letter.error.code, letter.attempts, letter.replays, why)


def _document(stored: Stored) -> dict[str, object]:
    return stored.letter.model_dump(mode="json", by_alias=True, exclude_none=True)
