"""The tree of commands."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from whimbrel.cli import dead_letters, demo, function, model, readiness, results, rgw, rollout, up
from whimbrel.cli.apply import apply, delete
from whimbrel.cli.console import out
from whimbrel.cli.describe import describe
from whimbrel.cli.doctor import doctor
from whimbrel.cli.lint import lint
from whimbrel.cli.loadtest import loadtest
from whimbrel.cli.logs import logs
from whimbrel.cli.ls import ls
from whimbrel.cli.put import put
from whimbrel.cli.reconcile import reconcile
from whimbrel.cli.source import PASSED_ON, source
from whimbrel.cli.status import status

app = typer.Typer(
    name="whimbrel",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Put an image in a bucket, get its labels back; change the model while it runs.",
)
app.command()(up.up)
app.command()(demo.demo)
app.command()(status)
app.command()(put)
app.add_typer(results.app, name="results")
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(reconcile)
app.add_typer(rgw.app, name="rgw")
app.command(context_settings=PASSED_ON)(source)
app.add_typer(model.app, name="model")
app.add_typer(rollout.app, name="rollout")
app.command()(loadtest)
for command in (function.init, function.render, apply, ls, describe, logs, readiness.wait, delete, doctor):
    app.command()(command)
app.command()(lint)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"whimbrel {metadata.version('whimbrel')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Options that stand before the command."""
