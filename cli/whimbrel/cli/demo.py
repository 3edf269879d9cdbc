"""`whimbrel demo`: the main job on real input, from an empty machine to the table, and nothing left running."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from whimbrel.cli import one_machine
from whimbrel.cli.accounting import Account, Upload, account
from whimbrel.cli.broken_pictures import broken_pictures
from whimbrel.cli.console import add_rows, out, progress_out, say, table
from whimbrel.cli.options import DEAD_LETTERS, PHOTOS, RESULTS
from whimbrel.cli.outcomes import count_outcomes, read_outcomes
from whimbrel.cli.put import put_object
from whimbrel.cli.up import DEFAULT_MANIFESTS, Manifests, engine_settings
from whimbrel.core.errors import SettingsError
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import locked

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCURACY_WANTED = 0.98
_MARK = "made-by-demo"
_UPLOADS_AT_ONCE = 8
_STALLED_SECONDS = 90  # without any new outcome, the rest is given up as missing
_POLL_SECONDS = 0.25

DemoState = Annotated[Path, typer.Option("--state", help="folder for this run; emptied first")]


def demo(state: DemoState = Path(".whimbrel/demo"), manifests: Manifests = DEFAULT_MANIFESTS) -> None:
    """Classify hundreds of pictures that land in a bucket, and account for every one.

    Trains two classifiers on scikit-learn's handwritten digits, registers them, starts everything, uploads the
    held-out digits and a few broken objects, and prints what became of them. Ends with 0 exactly when every object
    has a result or a dead letter, none twice, and the accuracy is at least 0.98.
    """
    settings = engine_settings(state, manifests)
    _check_ours(state)
    with locked(state):
        _empty(state)
    settled: list[Account] = []

    async def run() -> None:
        async with one_machine.started(settings, quiet=True) as engine:
            environment = engine.status()["environment"]
            settled.append(await asyncio.to_thread(classify, environment))

    begun = time.monotonic()
    with one_machine.logged_to(settings.state / "logs", settings.log_level):
        finished = one_machine.run_until_stopped(run())
    if not finished:
        raise typer.Exit(130)
    (figures,) = settled
    _show(figures, time.monotonic() - begun)
    if not figures.complete or figures.accuracy < ACCURACY_WANTED:
        raise typer.Exit(1)


def classify(environment: Mapping[str, str]) -> Account:
    """Upload the held-out digits and the broken objects, wait for every outcome, and settle the account."""
    from whimbrel.mlflow.recipes.digits import held_out

    client = s3_client(
        S3Settings(s3_endpoint=environment["WHIMBREL_S3_ENDPOINT"]),
        credentials=(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]),
    )
    objects: dict[str, tuple[bytes, str | None]] = {
        f"digits/{picture.index:04d}.png": (picture.png, picture.name) for picture in held_out()
    }
    objects |= {f"broken/{name}": (content, None) for name, content in broken_pictures().items()}
    with _bar() as bar:
        uploads = _upload(client, objects, bar)
        _await_outcomes(client, len(uploads), bar)
    outcomes = read_outcomes(client, PHOTOS, RESULTS, DEAD_LETTERS)
    return account(uploads, outcomes.results, outcomes.letters)


def _upload(client: S3Client, objects: Mapping[str, tuple[bytes, str | None]], bar: Progress) -> Sequence[Upload]:
    task = bar.add_task("put in the bucket", total=len(objects))

    def put(key: str) -> Upload:
        body, truth = objects[key]
        done = put_object(client, PHOTOS, key, body)
        bar.advance(task)
        return Upload(key, truth, done.started)

    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as threads:
        return list(threads.map(put, objects))


def _await_outcomes(client: S3Client, expected: int, bar: Progress) -> None:
    """Until every object has an outcome, or none came for a long time."""
    task = bar.add_task("answered or refused", total=expected)
    seen, changed = 0, time.monotonic()
    while seen < expected and time.monotonic() - changed < _STALLED_SECONDS:
        asked = time.monotonic()
        now = count_outcomes(client, PHOTOS, RESULTS, DEAD_LETTERS)
        if now != seen:
            seen, changed = now, time.monotonic()
            bar.update(task, completed=seen)
        # Listing is work for the store that everything else waits for: a tenth of the time at most.
        time.sleep(max(_POLL_SECONDS, 9 * (time.monotonic() - asked)))


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
    return Progress(*columns, TimeElapsedColumn(), console=progress_out)


def _show(figures: Account, seconds: float) -> None:
    versions = ", ".join(f"{count} by version {version}" for version, count in sorted(figures.versions.items()))
    rows = [
        ("objects put", figures.objects),
        ("results", f"{figures.results} ({versions})" if versions else 0),
        ("dead letters", len(figures.refused)),
        ("missing", len(figures.missing)),
        ("more than one outcome", len(figures.twice)),
        ("accuracy", f"{figures.accuracy:.4f} ({figures.right} of {figures.judged}; wanted {ACCURACY_WANTED})"),
        ("images/s", f"{figures.rate:.1f}"),
        ("upload to result, p50, all at once", f"{figures.percentile_ms(50):.0f} ms"),
        ("upload to result, p95, all at once", f"{figures.percentile_ms(95):.0f} ms"),
        ("from start to table", f"{seconds:.0f} s"),
    ]
    out.print()
    out.print(add_rows(table("DEMO", ""), rows))
    out.print()
    out.print(add_rows(table("REFUSED", "WHY"), ((each.key, each.reason) for each in figures.refused)))
    for what, keys in (("missing", figures.missing), ("twice", figures.twice), ("unexpected", figures.unexpected)):
        for key in keys:
            say(f"{what}: {key}")


def _check_ours(state: Path) -> None:
    """Raises SettingsError for a folder that holds anything and that no demo made."""
    if state.exists() and not (state / _MARK).is_file() and (not state.is_dir() or any(state.iterdir())):
        raise SettingsError(f"expected a new folder or one of an earlier demo, seen other content in {state}")


def _empty(state: Path) -> None:
    """Remove what an earlier run left, but the lock that says whose folder it is."""
    (state / _MARK).write_text("`whimbrel demo` empties this folder at its start\n")
    for path in state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (_MARK, "engine.lock"):
            path.unlink()
