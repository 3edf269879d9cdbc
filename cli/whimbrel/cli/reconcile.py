"""`whimbrel reconcile BUCKET`: the proof that nothing was lost, and the way to fill up what was."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whimbrel.cli.connection import Connection, connect
from whimbrel.cli.console import Output, add_rows, out, print_json_line, progress_out, say, table
from whimbrel.cli.options import (
    DEAD_LETTERS,
    DEFAULT_STATE,
    RESULTS,
    DeadLettersBucket,
    OutputFormat,
    ResultsBucket,
    State,
)
from whimbrel.core.errors import InputRefused

if TYPE_CHECKING:
    from whimbrel.eventing.reconcile.announce import BrokerAnnouncer
    from whimbrel.eventing.reconcile.compare import Question, Report, Watch
    from whimbrel.eventing.reconcile.survey import Survey

_SHOWN = 20  # missing objects in the table; JSON has all


def reconcile(
    bucket: Annotated[str, typer.Argument(help="bucket of the objects")],
    emit: Annotated[bool, typer.Option("--emit", help="send an event for each object without an outcome")] = False,
    sink: Annotated[str | None, typer.Option(help="URL to send the events to; absent: the broker")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, max=1e6, help="most events a second")] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=256, help="most events at once")] = 16,
    model_version: Annotated[
        str | None,
        typer.Option(help="count only results of models:/NAME/VERSION, models:/NAME@ALIAS or sha256:DIGEST"),
    ] = None,
    cursor: Annotated[
        Path | None, typer.Option(help="file to keep what was found in; the same command goes on from it after a kill")
    ] = None,
    prefix: Annotated[str, typer.Option(help="only keys that begin so")] = "",
    suffix: Annotated[str, typer.Option(help="only keys that end so")] = "",
    results_bucket: ResultsBucket = RESULTS,
    results_prefix: Annotated[str, typer.Option(envvar="WHIMBREL_RESULTS_PREFIX", help="as the sink's")] = "{bucket}",
    dead_letters_bucket: DeadLettersBucket = DEAD_LETTERS,
    dead_letters_prefix: Annotated[str, typer.Option(envvar="WHIMBREL_DEAD_LETTERS_PREFIX", help="as the sink's")] = "",
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """Compare a bucket with its results and dead letters; report, or announce, the objects that have neither.

    Ends with 1 when objects are left without an outcome that were not announced, or whose event was refused. The
    model that --model-version names has to be the one that is served: the events only ask for another look.
    """
    from whimbrel.eventing.reconcile.compare import Question
    from whimbrel.eventing.reconcile.look import Places
    from whimbrel.eventing.reconcile.survey import Survey

    connection = connect(state)
    digest = None if model_version is None else _digest(model_version, connection)
    places = Places(results_bucket, results_prefix, dead_letters_bucket, dead_letters_prefix, digest)
    question = Question(bucket, places, prefix, suffix)
    stop = threading.Event()
    with closing(Survey(cursor, question.facts())) as survey:
        if survey.resumed:
            progress_out.print(f"goes on from {cursor}; objects that were put since it began are not in it")
        to = (sink or connection.broker()) if emit else None
        report = _run(connection, question, survey, to, in_flight, rate, stop)
        _print(report, survey, output)
        if report.complete:
            survey.remove()
    if not report.complete:
        raise typer.Exit(1)


def _run(
    connection: Connection,
    question: Question,
    survey: Survey,
    sink: str | None,
    in_flight: int,
    rate: float | None,
    stop: threading.Event,
) -> Report:
    from whimbrel.eventing.reconcile.announce import BrokerAnnouncer, region_of
    from whimbrel.eventing.reconcile.compare import reconcile as compare

    client = connection.s3()
    announcing: BrokerAnnouncer | nullcontext[None] = nullcontext()
    if sink is not None:
        announcing = BrokerAnnouncer(
            sink,
            region_of(client, question.bucket),
            model_digest=question.places.model_digest,
            in_flight=in_flight,
            rate=rate,
            stop=stop,
        )
    with _bar() as watch, announcing as announce:
        try:
            return compare(client, question, survey, announce=announce, stop=stop, watch=watch)
        except BaseException:
            stop.set()  # whoever waits for its turn goes home
            raise


def _digest(model_version: str, connection: Connection) -> str:
    from whimbrel.core.registry import resolve

    if re.fullmatch(r"sha256:[0-9a-f]{64}", model_version):
        return model_version
    if not model_version.startswith("models:/"):
        forms = "models:/NAME/VERSION, models:/NAME@ALIAS or sha256:DIGEST"
        raise InputRefused(f"expected {forms} as --model-version, seen {model_version!r}")
    return resolve(model_version, connection.tracking_uri()).digest


@contextmanager
def _bar() -> Iterator[Watch]:
    """On a terminal: how many are listed, then how many of all are done and how long the rest takes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress_out, disable=not progress_out.is_terminal, transient=True) as progress:
        tasks = {}

        def watch(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done, total=total)

        yield watch


def _print(report: Report, survey: Survey, output: Output) -> None:
    from whimbrel.eventing.reconcile.survey import Outcome

    told = survey.told([Outcome.MISSING, Outcome.UNSEEN, Outcome.REFUSED, Outcome.UNUSABLE])
    if output is Output.JSON:
        for key, outcome, why in told:
            print_json_line({"key": key, "outcome": outcome.value} | ({"why": why} if why else {}))
        print_json_line({"report": asdict(report)})
        return
    rows = list(islice(told, _SHOWN))
    if rows:
        out.print(add_rows(table("OBJECT", "OUTCOME", "WHY"), ((key, each.value, why) for key, each, why in rows)))
    more = report.missing - report.emitted + report.unusable - len(rows)
    if more > 0:
        say(f"and {more} more; -o json names all")
    figures = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in asdict(report).items())
    say(figures)
