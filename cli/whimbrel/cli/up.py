"""`whimbrel up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
    api_port: AnyPort = 0,
    empty: Annotated[bool, typer.Option("--empty", help="apply nothing; what was applied before runs")] = False,
) -> None:
    """Run the manifests on this machine, on loopback only, until Ctrl-C.

    It is a small Kubernetes: with KUBECONFIG set to the file that it names, kubectl apply, get, describe, logs and
    delete work on it. Everything is kept in the state folder; a second `up` goes on where the first stopped or was
    killed, with all that was applied.
    """
    ports = {"gateway_port": gateway_port, "s3_port": s3_port, "mlflow_port": mlflow_port, "api_port": api_port}
    settings = _settings(state, manifests, ports) if empty else engine_settings(state, manifests, **ports)
    with one_machine.logged_to(settings.state / "logs", settings.log_level):
        one_machine.run_until_stopped(_up(settings, empty=empty))


def engine_settings(state: Path, manifests: Path, **ports: int) -> EngineSettings:
    """Raises SettingsError when there are no manifests at that place."""
    if not (manifests / "kustomization.yaml").is_file():
        raise SettingsError(
            f"expected a kustomization in {manifests}, seen none; run this in a checkout of whimbrel, "
            "or name yours with --manifests"
        )
    return _settings(state, manifests, ports)


def _settings(state: Path, manifests: Path, ports: Mapping[str, int]) -> EngineSettings:
    given = {"state": state, "manifests": manifests, **ports}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return load(EngineSettings, arguments, program="whimbrel up")


async def _up(settings: EngineSettings, *, empty: bool) -> None:
    async with one_machine.started(settings, empty=empty) as engine:
        await asyncio.to_thread(write_samples, settings.state / "samples")
        _greet(engine, settings, empty=empty)
        announcing = asyncio.create_task(keep_announced(engine))
        try:
            await engine.run_forever()
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)


def _greet(engine: Engine, settings: EngineSettings, *, empty: bool) -> None:
    out.print(add_rows(table("ENDPOINT", "URL"), sorted(engine.status()["endpoints"].items())))
    state = "" if settings.state == DEFAULT_STATE else f" --state {settings.state}"
    say(f"\nReady. In another terminal:\n  export KUBECONFIG={engine.kubeconfig}\n  kubectl get isvc,ksvc,brokers,pods")
    if not empty:
        say(f"  whimbrel put {PHOTOS} {settings.state / 'samples' / 'seven.png'} --wait 10{state}")
        say(f"  whimbrel results ls{state}")
    say(f"Results are in the bucket {RESULTS!r}, logs in {settings.state / 'logs'}. Ctrl-C stops everything.")
