"""The command line: parses, calls a room, prints."""

from __future__ import annotations

import sys


def main() -> None:
    """The `whimbrel` command. An error is one line on stderr; 2 is a wrong setting, 1 anything else."""
    from whimbrel.cli.app import app
    from whimbrel.core.errors import SettingsError, WhimbrelError
    from whimbrel.core.logs import redact

    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"whimbrel: {redact(str(error))}\n")
        sys.exit(2)
    except WhimbrelError as error:
        sys.stderr.write(f"whimbrel: {redact(str(error))}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
