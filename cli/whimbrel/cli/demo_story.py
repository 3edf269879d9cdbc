"""What the demo shows while pictures keep landing: a better version promoted, a bad one refused, and taken back.

Each rollout is the command that a user types.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from whimbrel.cli.samples import QUICK
from whimbrel.core.errors import NotFound
from whimbrel.kube.client import client
from whimbrel.kube.kinds import MODEL_ROLLOUT

if TYPE_CHECKING:
    from whimbrel.mlflow.rollout.resource import ModelRollout

# By the order in which they are trained.
NETWORKS: Final = {"1": "linear", "2": "CNN", "3": "CNN, labels shuffled"}
RECIPES: Final = ("digits", "digits/shuffled")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One of the story, and its end: `phase`, and what its message begins with."""

    name: str
    version: str
    phase: str
    why: str
    forced: bool = False

    def command(self, state: Path) -> list[str]:
        options = ["--name", self.name, "--force"] if self.forced else []
        policy = ["--policy", str(state / "samples" / QUICK)]
        return ["rollout", "start", f"digits/{self.version}", *options, *policy, "--watch", "--state", str(state)]


STORY: Final = (
    Rollout("digits-2", "2", "Promoted", ""),
    Rollout("digits-3", "3", "RolledBack", "refused by the backtest"),
    Rollout("digits-3-forced", "3", "RolledBack", "refused at", forced=True),
)


@dataclass(frozen=True, slots=True)
class End:
    """How a rollout ended, and after how long. Without a `phase` where it was not even begun."""

    rollout: Rollout
    phase: str
    message: str
    seconds: float

    @property
    def as_told(self) -> bool:
        return self.phase == self.rollout.phase and self.message.startswith(self.rollout.why)


async def tell(state: Path, kubeconfig: Path, environment: Mapping[str, str], show: Callable[[str], None]) -> list[End]:
    """Every rollout to its end, one after the other. `environment`: the engine's services."""
    ends = []
    for rollout in STORY:
        command = rollout.command(state)
        show(f"$ whimbrel {shlex.join(command)}")
        await _run(command, {**os.environ, **environment, "KUBECONFIG": str(kubeconfig)}, show)
        ends.append(await _end(rollout, kubeconfig))
    return ends


async def _run(command: list[str], environment: Mapping[str, str], show: Callable[[str], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "whimbrel.cli", *command),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 it is a pipe
        async for line in process.stdout:
            show(line.decode(errors="replace").rstrip())
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _end(rollout: Rollout, kubeconfig: Path) -> End:
    from whimbrel.mlflow.rollout.resource import parse

    try:
        async with client(str(kubeconfig)) as cluster:
            found = parse(await cluster.get(MODEL_ROLLOUT, rollout.name, "default"))
    except NotFound as error:
        return End(rollout, "", str(error), 0.0)
    return End(rollout, found.status.phase, found.status.message, _seconds(found))


def _seconds(found: ModelRollout) -> float:
    status = found.status
    return (status.ended - status.started).total_seconds() if status.ended and status.started else 0.0
