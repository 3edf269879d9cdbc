"""`python -m whimbrel.mlflow rollouts`: the controller of ModelRollouts, as a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from whimbrel.core import logs
from whimbrel.core.errors import SettingsError
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import load
from whimbrel.kube.client import client
from whimbrel.mlflow.rollout.controller import Controller, RolloutSettings

PROGRAM = "python -m whimbrel.mlflow rollouts"


async def control(settings: RolloutSettings) -> None:
    """Until SIGTERM or SIGINT. Raises SettingsError without a kubeconfig."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with client() as cluster:
        running = asyncio.create_task(Controller(cluster, s3_client(settings), settings).run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if running.done():
            running.result()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 after a stop, 2 for a wrong setting."""
    try:
        if arguments[:1] != ["rollouts"]:
            raise SettingsError(f"expected 'rollouts', seen {' '.join(arguments[:1]) or 'nothing'}")
        settings = load(RolloutSettings, arguments[1:], program=PROGRAM)
        logs.configure("rollouts", settings.log_level)
        asyncio.run(control(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
