"""The life of a predictor around its server: load the version that the settings name, serve, finish, let go."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from whimbrel.core.errors import Unavailable
from whimbrel.core.model_pointer import POINTER_PREFIX, PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.model import PredictorModel
from whimbrel.predictors.pointer import PointerFollower
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import source_of
from whimbrel.predictors.timing import process_age_seconds as age

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 3.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def serving(model: PredictorModel, settings: PredictorSettings) -> AsyncIterator[None]:
    """While entered, `model` serves the version that the settings name. Leaving finishes what was accepted.

    A store or registry that does not answer is waited for. Raises PackageRefused, NotFound, SettingsError, and
    Unavailable after `start_timeout_seconds`.
    """
    before = age()
    with device_threads(settings.device_timeout_seconds) as threads:
        residents = Residents(settings, threads)
        watching = asyncio.create_task(threads.health.watch())
        try:
            async with _loaded(model, residents, settings):
                model.serve(residents)
                if settings.timing:
                    logger.info("timing: before %.2f s, %s, ready after %.2f s", before, residents.stages.line(), age())
                yield
        finally:
            await residents.close()
            watching.cancel()


@asynccontextmanager
async def _loaded(model: PredictorModel, residents: Residents, settings: PredictorSettings) -> AsyncIterator[None]:
    """With the one version that the settings name; or with those of the pointer, which is followed while entered."""
    if not settings.model_uri.startswith(POINTER_PREFIX):
        await _waited_for(lambda: residents.load(source_of(settings)), settings.start_timeout_seconds)
        yield
        return
    place = ObjectRef.from_uri(settings.model_uri.removeprefix(POINTER_PREFIX))
    follower = PointerFollower(PointerStore(s3_client(settings), place), residents, settings)
    await _waited_for(follower.start, settings.start_timeout_seconds)
    model.pointer_state = follower.state
    following = asyncio.create_task(follower.run())
    following.add_done_callback(_end_the_process)
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])
        await follower.stop()
    if not following.cancelled():
        following.result()


def _end_the_process(following: asyncio.Task[None]) -> None:
    """A replica that no longer follows would serve an old version for ever: drain, and let it be started again."""
    if not following.cancelled():
        logger.error("no longer following the pointer", exc_info=following.exception())
        signal.raise_signal(signal.SIGTERM)


async def _waited_for(load: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Try again while something that the load needs does not answer."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await load()
        except Unavailable as error:
            logger.warning("not loaded yet: %s", error)
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
