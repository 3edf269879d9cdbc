"""The life of a predictor around its server: load the versions that the settings name, serve, finish, let go."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from whimbrel.core.errors import Unavailable, WhimbrelError
from whimbrel.core.model_pointer import POINTER_PREFIX, PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.s3 import s3_client
from whimbrel.predictors.batcher import device_threads
from whimbrel.predictors.ensemble import EnsembleModel
from whimbrel.predictors.model import PredictorModel
from whimbrel.predictors.named_models import NamedModel
from whimbrel.predictors.pointer import PointerFollower
from whimbrel.predictors.residents import Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Located, source_of
from whimbrel.predictors.timing import process_age_seconds as age

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 3.0

logger = logging.getLogger(__name__)


Served = Mapping[str, PredictorModel]


@asynccontextmanager
async def serving(
    models: Served, ensembles: Sequence[EnsembleModel], settings: PredictorSettings
) -> AsyncIterator[None]:
    """While entered, each of `models` serves the version that the settings name. Leaving finishes what was accepted.

    A store or registry that does not answer is waited for. Raises, with the name of the model, PackageRefused,
    NotFound, SettingsError, and Unavailable after `start_timeout_seconds`.
    """
    before = age()
    with device_threads(settings.device_timeout_seconds) as threads:
        loading = [
            (named, Residents(named.name, settings, threads, _admission(named.name, ensembles)))
            for named in settings.models
        ]
        watching = asyncio.create_task(threads.health.watch())
        try:
            async with AsyncExitStack() as followed:
                for named, residents in loading:
                    models[named.name].serve(residents)
                await _all_loaded(loading, models, settings, followed)
                if settings.timing:
                    _log_timing(before, [residents for _, residents in loading])
                yield
        finally:
            for _, residents in loading:
                await residents.close()
            watching.cancel()


def _admission(name: str, ensembles: Sequence[EnsembleModel]) -> Callable[[Located], None]:
    """Every ensemble that the model is in has to take a version of it."""
    concerned = [ensemble for ensemble in ensembles if name in ensemble.member_names]

    def admit(located: Located) -> None:
        for ensemble in concerned:
            ensemble.admit(name, located)

    return admit


async def _all_loaded(
    loading: Sequence[tuple[NamedModel, Residents]],
    models: Served,
    settings: PredictorSettings,
    followed: AsyncExitStack,
) -> None:
    """All at once; the first that cannot be loaded ends it for all."""

    async def one(named: NamedModel, residents: Residents) -> None:
        try:
            await followed.enter_async_context(_loaded(named, models[named.name], residents, settings))
        except WhimbrelError as error:
            error.args = (f"model {named.name!r}: {error}",)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for named, residents in loading:
                group.create_task(one(named, residents))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _log_timing(before: float, loaded: Sequence[Residents]) -> None:
    stages = "; ".join(f"{residents.name}: {residents.stages.line()}" for residents in loaded)
    logger.info("timing: before %.2f s, %s, ready after %.2f s", before, stages, age())


@asynccontextmanager
async def _loaded(
    named: NamedModel, model: PredictorModel, residents: Residents, settings: PredictorSettings
) -> AsyncIterator[None]:
    """With the one version that the settings name; or with those of the pointer, which is followed while entered."""
    if not named.is_pointed:
        await _waited_for(lambda: residents.load(source_of(named)), settings.start_timeout_seconds, named.name)
        yield
        return
    place = ObjectRef.from_uri(named.uri.removeprefix(POINTER_PREFIX))
    follower = PointerFollower(PointerStore(s3_client(settings), place), residents, settings)
    await _waited_for(follower.start, settings.start_timeout_seconds, named.name)
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


async def _waited_for(load: Callable[[], Awaitable[None]], seconds: float, model_name: str) -> None:
    """Try again while something that the load needs does not answer."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await load()
        except Unavailable as error:
            logger.warning("not loaded yet: %s", error, extra={"model": model_name})
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
