"""`python -m whimbrel.mlflow rollouts`: the controller of ModelRollouts, as a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from whimbrel.core import logs
from whimbrel.core.errors import SettingsError
from whimbrel.core.process_end import run_program
from whimbrel.core.settings import load
from whimbrel.kube.client import client
from whimbrel.mlflow.rollout.controller import RolloutSettings, control

PROGRAM = "python -m whimbrel.mlflow rollouts"


async def _run(settings: RolloutSettings) -> None:
    async with client() as cluster:
        await control(cluster, settings)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 after a stop, 2 for a wrong setting."""
    try:
        if arguments[:1] != ["rollouts"]:
            raise SettingsError(f"expected 'rollouts', seen {' '.join(arguments[:1]) or 'nothing'}")
        settings = load(RolloutSettings, arguments[1:], program=PROGRAM)
        logs.configure("rollouts", settings.log_level)
        asyncio.run(_run(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
