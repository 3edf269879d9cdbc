"""`whimbrel results`: what was seen in which object."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer

from whimbrel.cli.connection import connect
from whimbrel.cli.console import Output, add_rows, out, print_json, print_json_line, say, table
from whimbrel.cli.options import DEFAULT_STATE, PHOTOS, RESULTS, ObjectBucket, OutputFormat, ResultsBucket, State
from whimbrel.core.results import Result
from whimbrel.eventing.results_reader import ResultReader

app = typer.Typer(no_args_is_help=True, help="See what was recognised in which object.")


@app.command()
def ls(
    bucket: ObjectBucket = PHOTOS,
    results_bucket: ResultsBucket = RESULTS,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="most results to list")] = 1000,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """List the latest result of every object."""
    results = list(islice(_reader(state, bucket, results_bucket).latest(), limit))
    if output is Output.JSON:
        print_json(results)
        return
    rows = ((result.object.key, *_answer(result), result.model.version, _recorded(result)) for result in results)
    out.print(add_rows(table("OBJECT", "LABEL", "SCORE", "MODEL VERSION", "RECORDED"), rows))


@app.command()
def get(
    key: Annotated[str, typer.Argument(help="key of the object")],
    bucket: ObjectBucket = PHOTOS,
    results_bucket: ResultsBucket = RESULTS,
    versions: Annotated[bool, typer.Option("--versions", help="of every version, under every model")] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Print the latest result of one object as JSON."""
    reader = _reader(state, bucket, results_bucket)
    print_json(list(reader.versions(key)) if versions else reader.get(key))


@app.command()
def watch(
    bucket: ObjectBucket = PHOTOS,
    results_bucket: ResultsBucket = RESULTS,
    count: Annotated[int | None, typer.Option(min=1, help="end after so many results")] = None,
    output: OutputFormat = Output.TABLE,
    state: State = DEFAULT_STATE,
) -> None:
    """Print each result as it is written, until Ctrl-C."""
    reader = _reader(state, bucket, results_bucket)
    for result in islice(reader.watch(threading.Event(), 0.25, since=datetime.now(UTC)), count):
        if output is Output.JSON:
            print_json_line(result)
        else:
            say(line(result))


def line(result: Result) -> str:
    """The one line of a result, as the transformer logs it."""
    label, score = _answer(result)
    objects = sum(prediction.box is not None for prediction in result.predictions)
    found = f"label: {label}, score: {score}" + (f", the best of {objects}" if objects else "")
    return f"{result.object.key}  {found}  (model version {result.model.version})"


def _answer(result: Result) -> tuple[str, str]:
    if not result.predictions:
        return "-", "-"
    return result.predictions[0].label, f"{result.predictions[0].score:.3f}"


def _recorded(result: Result) -> str:
    return "" if result.recorded is None else result.recorded.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _reader(state: State, bucket: str, results_bucket: str) -> ResultReader:
    return ResultReader(connect(state).s3(), results_bucket, bucket)
