"""`whimbrel demo`: the main job on real input, from an empty machine to the table, and nothing left running."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from whimbrel.cli import demo_story, one_machine
from whimbrel.cli.accounting import account
from whimbrel.cli.console import progress_out, say
from whimbrel.cli.demo_figures import Figures, faults, requests, show
from whimbrel.cli.landing import Landing, held_out_and_broken
from whimbrel.cli.options import DEAD_LETTERS, PHOTOS, RESULTS
from whimbrel.cli.outcomes import read_outcomes
from whimbrel.cli.samples import write_samples
from whimbrel.cli.up import DEFAULT_MANIFESTS, Manifests, engine_settings
from whimbrel.core.errors import SettingsError
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import locked

if TYPE_CHECKING:
    from whimbrel.local.engine import Engine

_MARK = "made-by-demo"
_FIRST_OUTCOMES = 20  # before the first rollout: of the version that is there
_FIRST_SECONDS = 60
_POLL_SECONDS = 0.2

DemoState = Annotated[Path, typer.Option("--state", help="folder for this run; emptied first")]


def demo(state: DemoState = Path(".whimbrel/demo"), manifests: Manifests = DEFAULT_MANIFESTS) -> None:
    """Classify pictures that keep landing in a bucket while the model changes under them; account for every one.

    Trains three classifiers on scikit-learn's handwritten digits and starts everything with the linear one. While the
    held-out digits and a few broken objects land, the second version, a CNN, is rolled out by its rules; the third,
    trained on shuffled labels, is refused, and, forced past that, taken back. Ends with 0 exactly when that is how it
    went, no request failed, every object has one result or dead letter, and 98 of 100 of the CNN's are right.
    """
    settings = engine_settings(state, manifests)
    _check_ours(state)
    with locked(state):
        _empty(state)
    told: list[Figures] = []

    async def run() -> None:
        async with one_machine.started(settings, quiet=True, recipes=demo_story.RECIPES) as engine:
            told.append(await _told(engine, state))

    begun = time.monotonic()
    with one_machine.logged_to(settings.state / "logs", settings.log_level):
        finished = one_machine.run_until_stopped(run())
    if not finished:
        raise typer.Exit(130)
    (figures,) = told
    show(figures, time.monotonic() - begun)
    found = faults(figures)
    for fault in found:
        say(fault)
    if found:
        raise typer.Exit(1)


async def _told(engine: Engine, state: Path) -> Figures:
    """The story, from the first picture to the last outcome."""
    status = engine.status()
    environment = status["environment"]
    client = s3_client(
        S3Settings(s3_endpoint=environment["WHIMBREL_S3_ENDPOINT"]),
        credentials=(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]),
    )
    pictures = await asyncio.to_thread(held_out_and_broken)
    await asyncio.to_thread(write_samples, state / "samples")
    with _bar() as bar:
        landing = Landing(client, pictures, bar)
        threads = [asyncio.create_task(asyncio.to_thread(work)) for work in (landing.put, landing.count)]
        try:
            await _first_outcomes(landing)
            ends = await demo_story.tell(state, engine.kubeconfig, environment, lambda line: _line(bar, line))
            landing.finish()
            await asyncio.gather(*threads)
        finally:
            landing.cancel()
            await asyncio.gather(*threads, return_exceptions=True)
    outcomes = await asyncio.to_thread(read_outcomes, client, PHOTOS, RESULTS, DEAD_LETTERS)
    settled = account(landing.uploads, outcomes.results, outcomes.letters)
    return Figures(settled, tuple(ends), await requests(status["endpoints"]["broker"]))


async def _first_outcomes(landing: Landing) -> None:
    """A story that nobody answers in is told all the same: its end says so."""
    deadline = time.monotonic() + _FIRST_SECONDS
    # They are counted on another thread.
    while landing.outcomes < _FIRST_OUTCOMES and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)


def _line(bar: Progress, line: str) -> None:
    bar.console.print(line, markup=False, soft_wrap=True, style="bold" if line.startswith("$ ") else None)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=progress_out)


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
