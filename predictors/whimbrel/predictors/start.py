"""From a model URI to a network that has answered once: locate, fetch, load, warm up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from whimbrel.core import package_transfer, registry
from whimbrel.core.errors import PackageRefused, Unavailable
from whimbrel.core.package import Package
from whimbrel.core.s3 import s3_client
from whimbrel.predictors.batcher import batching, device_threads
from whimbrel.predictors.model import PredictorModel, Served
from whimbrel.predictors.network import Network
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.warm_up import warm_up

_NULL = "null:"
_REGISTRY = "models:/"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 3.0

logger = logging.getLogger(__name__)
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class _Location:
    version: str
    uri: str
    digest: str


@asynccontextmanager
async def serving(model: PredictorModel, settings: PredictorSettings) -> AsyncIterator[None]:
    """While entered, `model` serves the version that the settings name. Leaving finishes what was accepted.

    A store or registry that does not answer is waited for. Raises PackageRefused, NotFound, SettingsError, and
    Unavailable after `start_timeout_seconds`.
    """
    started = time.monotonic()
    version, network = await _waited_for(lambda: _load(settings), settings.start_timeout_seconds)
    loaded = time.monotonic()
    with device_threads() as threads:
        names = {"model_name": settings.model_name, "version": version}
        async with batching(network, settings.batch_limits, threads, **names) as batcher:
            await warm_up(batcher, network.description, settings)
            model.serve(Served(version, network.description, batcher))
            seconds = {"load_seconds": loaded - started, "warm_up_seconds": time.monotonic() - loaded}
            described = {"version": version, "digest": network.description.digest}
            logger.info("serving", extra={**described, **{name: round(value, 3) for name, value in seconds.items()}})
            yield


async def _waited_for(find: Callable[[], Found], seconds: float) -> Found:
    """The result of `find`, run in a thread, tried again while something that it needs does not answer."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await asyncio.to_thread(find)
        except Unavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            logger.warning("waiting: %s", error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _load(settings: PredictorSettings) -> tuple[str, Network]:
    if settings.model_uri.startswith(_NULL):
        network = null_network(settings.model_uri, delay_seconds=settings.null_delay_seconds)
        return settings.model_version or "null", network
    location = _locate(settings)
    package = package_transfer.fetch(location.uri, location.digest, settings.model_cache, s3_client(settings))
    return location.version, _torch_network(package, settings)


def _locate(settings: PredictorSettings) -> _Location:
    """Where the package is and which one to expect. Nothing loads that neither setting nor registry pinned."""
    uri, expected, version = settings.model_uri, settings.model_digest, settings.model_version
    if not uri.startswith(_REGISTRY):
        assert expected is not None  # noqa: S101 the settings require it
        return _Location(version or expected.removeprefix("sha256:")[:12], uri, expected)
    found = registry.resolve(uri, settings.mlflow_tracking_uri)
    if expected is not None and expected != found.digest:
        raise PackageRefused(f"expected the model package {expected}, seen {found.digest} behind {uri}")
    return _Location(version or found.version, found.uri, found.digest)


def _torch_network(package: Package, settings: PredictorSettings) -> Network:
    import torch

    from whimbrel.predictors import torch_network

    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    return torch_network.load(package, torch_network.choose_device(settings.device))
