"""`whimbrel status`: what the engine runs and where."""

from __future__ import annotations

import typer

from whimbrel.cli.console import Output, add_rows, out, print_json, table
from whimbrel.cli.options import DEFAULT_STATE, OutputFormat, State
from whimbrel.core.errors import NotFound
from whimbrel.local.state import read_status


def status(output: OutputFormat = Output.TABLE, state: State = DEFAULT_STATE) -> None:
    """Show the endpoints and components of `whimbrel up`. Ends with 1 unless everything is ready."""
    found = read_status(state)
    if found is None:
        raise NotFound(f"expected an engine's state in {state}, seen none; start one with 'whimbrel up'")
    found.pop("environment", None)  # it holds the store's credentials
    if output is Output.JSON:
        print_json(found)
    else:
        out.print(add_rows(table("ENDPOINT", "URL"), sorted(found["endpoints"].items())))
        out.print()
        rows = (
            (each["name"], each["kind"], "yes" if each["ready"] else "no", each.get("pid"), each.get("restarts"))
            for each in found["components"]
        )
        out.print(add_rows(table("COMPONENT", "KIND", "READY", "PID", "RESTARTS"), rows))
        if not found["running"]:
            out.print("\nnot running: these are the last known figures")
    if not found["running"] or not found.get("ready"):
        raise typer.Exit(1)
