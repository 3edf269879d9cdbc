"""The command line: parses, calls a room, prints."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The `whimbrel` command. An error is one line on stderr; 2 is a wrong setting, 1 anything else."""
    from whimbrel.core.process_end import run_program

    run_program(_main)


def _main() -> int:
    from whimbrel.cli.app import app
    from whimbrel.core.errors import SettingsError, WhimbrelError
    from whimbrel.core.logs import redact

    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"whimbrel: {redact(str(error))}\n")
        return 2
    except WhimbrelError as error:
        sys.stderr.write(f"whimbrel: {redact(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
