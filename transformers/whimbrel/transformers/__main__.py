"""`python -m whimbrel.transformers`: the transformer's process."""

from __future__ import annotations

import sys

from whimbrel.core import logs, tracing
from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import load
from whimbrel.transformers.settings import TransformerSettings


def main() -> int:
    try:
        settings = load(TransformerSettings, sys.argv[1:], program="python -m whimbrel.transformers")
        logs.configure("transformer", settings.log_level)
        tracing.configure("transformer")
        from whimbrel.transformers import service

        service.run(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
