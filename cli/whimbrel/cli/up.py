"""`whimbrel up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import one_machine
from whimbrel.cli.console import add_rows, out, say, table
from whimbrel.cli.options import DEFAULT_STATE, PHOTOS, RESULTS, State
from whimbrel.cli.samples import write_samples
from whimbrel.cli.unsettled import keep_announced
from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import load
from whimbrel.local.engine import Engine
from whimbrel.local.settings import EngineSettings

Manifests = Annotated[
    Path, typer.Option("--manifests", envvar="WHIMBREL_MANIFESTS", help="kustomization to run", show_default=True)
]
DEFAULT_MANIFESTS = Path("manifests/overlays/local")
AnyPort = Annotated[int, typer.Option(min=0, max=65535, help="0: the one of last time, else any free one")]


def up(
    state: State = DEFAULT_STATE,
    manifests: Manifests = DEFAULT_MANIFESTS,
    gateway_port: AnyPort = 0,
    s3_port: AnyPort = 0,
    mlflow_port: AnyPort = 0,
) -> None:
    """Run the manifests on this machine, on loopback only, until Ctrl-C.

    Everything is kept in the state folder; a second `up` goes on where the first stopped or was killed.
    """
    settings = engine_settings(state, manifests, gateway_port=gateway_port, s3_port=s3_port, mlflow_port=mlflow_port)
    with one_machine.logged_to(settings.state / "logs", settings.log_level):
        one_machine.run_until_stopped(_up(settings))


def engine_settings(state: Path, manifests: Path, **ports: int) -> EngineSettings:
    """Raises SettingsError when there are no manifests at that place."""
    if not (manifests / "kustomization.yaml").is_file():
        raise SettingsError(
            f"expected a kustomization in {manifests}, seen none; run this in a checkout of whimbrel, "
            "or name yours with --manifests"
        )
    given = {"state": state, "manifests": manifests, **ports}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return load(EngineSettings, arguments, program="whimbrel up")


async def _up(settings: EngineSettings) -> None:
    async with one_machine.started(settings) as engine:
        await asyncio.to_thread(write_samples, settings.state / "samples")
        _greet(engine, settings)
        announcing = asyncio.create_task(keep_announced(engine))
        try:
            await engine.run_forever()
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)


def _greet(engine: Engine, settings: EngineSettings) -> None:
    out.print(add_rows(table("ENDPOINT", "URL"), sorted(engine.status()["endpoints"].items())))
    state = "" if settings.state == DEFAULT_STATE else f" --state {settings.state}"
    say(
        "\nReady. In another terminal:\n"
        f"  whimbrel put {PHOTOS} {settings.state / 'samples' / 'seven.png'} --wait 10{state}\n"
        f"  whimbrel results ls{state}\n"
        f"Results are in the bucket {RESULTS!r}, logs in {settings.state / 'logs'}. Ctrl-C stops everything."
    )
