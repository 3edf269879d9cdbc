"""`whimbrel model webhook`: what has the registry announce moved aliases to the controller of rollouts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.connection import connect
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.options import DEFAULT_STATE, OutputFormat, State

app = typer.Typer(no_args_is_help=True, help="Have the registry announce moved aliases to 'whimbrel rollout run'.")
DEFAULT_NAME = "whimbrel-rollouts"
Name = Annotated[str, typer.Option(help="of the webhook")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="where the registry reaches the receiver: https://HOST/webhooks/mlflow")],
    secret_file: Annotated[Path, typer.Option(help="file with the secret that the receiver has as well")],
    name: Name = DEFAULT_NAME,
    state: State = DEFAULT_STATE,
) -> None:
    """Make the webhook, or give the one of that name this address and secret."""
    from whimbrel.mlflow.rollout.intent_settings import read_secret
    from whimbrel.mlflow.webhooks import create_webhook

    secret = read_secret(secret_file, "--secret-file")
    webhook = create_webhook(connect(state).tracking_uri(), name, url, secret)
    say(f"{webhook.name}  {webhook.url}  {', '.join(webhook.events)}")


@app.command()
def ls(output: OutputFormat = Output.TABLE, state: State = DEFAULT_STATE) -> None:
    """List the registry's webhooks."""
    from whimbrel.mlflow.webhooks import list_webhooks

    found = list_webhooks(connect(state).tracking_uri())
    if output is Output.JSON:
        print_json([asdict(each) for each in found])
        return
    rows = ((each.name, each.url, ", ".join(each.events), each.status) for each in found)
    out.print(add_rows(table("WEBHOOK", "URL", "EVENTS", "STATUS"), rows))


@app.command(name="try")
def try_command(name: Name = DEFAULT_NAME, state: State = DEFAULT_STATE) -> None:
    """Have the registry deliver an example, and say what came of it. Ends with 1 when it was not accepted."""
    from whimbrel.mlflow.webhooks import try_webhook

    delivery = try_webhook(connect(state).tracking_uri(), name)
    say(f"{name}  {f'status {delivery.status}' if delivery.status else 'not delivered'}  {delivery.reason}")
    if delivery.status != 200:
        raise typer.Exit(1)


@app.command()
def delete(name: Name = DEFAULT_NAME, state: State = DEFAULT_STATE) -> None:
    """Delete the webhook of that name."""
    from whimbrel.mlflow.webhooks import delete_webhook

    say(f"{name}  deleted {delete_webhook(connect(state).tracking_uri(), name)}")
