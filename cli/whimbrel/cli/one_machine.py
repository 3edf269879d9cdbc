"""Starts the engine for `up` and `demo`: services, the model in the registry, then everything that serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from rich.status import Status

from whimbrel.cli import first_model
from whimbrel.cli.console import progress_out
from whimbrel.cli.model import DIGITS
from whimbrel.core import logs
from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.core.kustomize import render
from whimbrel.local.engine import Engine
from whimbrel.local.settings import EngineSettings

_READY_SECONDS = 300  # MLflow's start is in it where no model has to be made first

logger = logging.getLogger(__name__)

Objects = list[dict[str, Any]]


@asynccontextmanager
async def started(
    settings: EngineSettings, *, quiet: bool = False, empty: bool = False, recipes: Sequence[str] = (DIGITS,)
) -> AsyncIterator[Engine]:
    """Everything ready: the embedded services, a model where the manifests ask for one, the rest.

    `empty`: the manifests are not applied. `recipes`: what is trained where the model is missing. Raises
    SettingsError or InputRefused for what the user gave, Unavailable for what did not become ready; where an earlier
    life of the state is gone on with, that is only told.
    """
    objects = [] if empty else render(settings.manifests)
    with progress_out.status("starting the store, the registry and the broker") as shown:
        async with Engine(settings) as engine:
            await engine.create_store(objects)
            if first_model.is_asked_for(objects):
                shown.update("training classifiers on handwritten digits and registering them")
                await engine.wait_registry()
                await first_model.make(objects, engine, recipes)
            shown.update("starting what the manifests describe")
            await engine.apply(objects)
            try:
                await engine.wait_ready(_READY_SECONDS, lambda components: shown.update(_waiting(components)))
            except (SettingsError, Unavailable) as error:
                if not engine.restored:
                    raise
                logger.warning(str(error))
            shown.stop()
            if not quiet:
                _tell_warnings(engine.warnings)
            yield engine
            _say_stopping(shown)


@contextmanager
def logged_to(folder: Path, level: str) -> Iterator[None]:
    """The engine's log goes to `folder`, beside those of what it starts; warnings are shown as well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "engine.log").open("a") as stream:
        logs.configure("engine", level, stream=stream)
        logging.getLogger().addHandler(_Shown(logging.WARNING))
        try:
            yield
        finally:
            logs.configure("engine", level)


class _Shown(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        progress_out.print(logs.redact(record.getMessage()), markup=False, style="yellow")


def run_until_stopped(main: Coroutine[Any, Any, None]) -> bool:
    """Run to the end, or until SIGINT or SIGTERM, which let it clean up; whether it came to its own end."""

    async def guarded() -> bool:
        task = asyncio.ensure_future(main)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
            return True
        return False

    return asyncio.run(guarded())


def _tell_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        logger.info(warning)
    if warnings:
        progress_out.print(f"{len(warnings)} fields of the manifests are not enforced on one machine; see engine.log")


def _waiting(components: list[dict[str, Any]]) -> str:
    names = ", ".join(each["name"] for each in components if not each["ready"])
    return f"waiting for {names}" if names else "everything is ready"


def _say_stopping(shown: Status) -> None:
    shown.update("stopping")
    shown.start()
