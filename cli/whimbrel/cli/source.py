"""`whimbrel source NAME`: one source as a process, as its container runs it."""

from __future__ import annotations

import typer

from whimbrel.cli.console import out
from whimbrel.core.errors import SettingsError

# The source's own settings are its options, and its own --help lists them.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def source(context: typer.Context) -> None:
    """Run a source of object events until Ctrl-C; `whimbrel source NAME --help` lists its settings."""
    from whimbrel.eventing.__main__ import end, main, source_names

    name = context.args[0] if context.args else "--help"
    if name in source_names():
        end(main(["source", *context.args], "whimbrel"))
    if name not in ("-h", "--help"):
        raise SettingsError(f"expected one of {', '.join(source_names())}, seen {name}; see 'whimbrel source --help'")
    out.print("Usage: whimbrel source NAME [SETTING ...]\n")
    out.print("Posts every object event of one upstream to a sink (--sink or K_SINK), and acknowledges it upstream")
    out.print("only after the sink accepted it. NAME is one of:")
    for known in source_names():
        out.print(f"  {known}")
    out.print("\n'whimbrel source NAME --help' lists the settings of one, with their defaults.", highlight=False)
