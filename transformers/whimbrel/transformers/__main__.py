"""`python -m whimbrel.transformers`: the transformer's process; with `outputs`, the outputs sink's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from whimbrel.core import logs, tracing
from whimbrel.core.errors import SettingsError, WhimbrelError
from whimbrel.core.process_end import run_program
from whimbrel.core.settings import load
from whimbrel.transformers.settings import TransformerSettings

PROGRAM = "python -m whimbrel.transformers"


def main() -> int:
    try:
        if sys.argv[1:2] == ["outputs"]:
            _run_outputs(sys.argv[2:])
        else:
            _run_transformer(sys.argv[1:])
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except WhimbrelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _run_transformer(arguments: Sequence[str]) -> None:
    settings = load(TransformerSettings, arguments, program=PROGRAM)
    logs.configure("transformer", settings.log_level)
    tracing.configure("transformer")
    from whimbrel.transformers import service

    service.run(settings)


def _run_outputs(arguments: Sequence[str]) -> None:
    from whimbrel.transformers.outputs.settings import OutputsSettings

    settings = load(OutputsSettings, arguments, program=f"{PROGRAM} outputs")
    logs.configure("outputs-sink", settings.log_level)
    tracing.configure("outputs-sink")
    from whimbrel.transformers.outputs import service

    service.run(settings)


if __name__ == "__main__":
    run_program(main)
