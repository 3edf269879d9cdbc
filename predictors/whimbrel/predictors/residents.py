"""The versions of one model in memory: current, candidate, previous; loaded, switched and unloaded while it serves.

    load ──► candidate (a share of the requests) ──► current ──► previous (kept for a rollback) ──► unloaded

A switch is one assignment on the event loop, so it falls between two batches: each version has its own batches, and
all of them go through the same threads. Whatever a request was given to is not unloaded before it has answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from whimbrel.core import package_cache
from whimbrel.core.errors import InputRefused, NotFound, Unavailable, WhimbrelError
from whimbrel.core.metrics import (
    PREDICTOR_DEVICE_FAILING,
    PREDICTOR_FREE_BYTES,
    PREDICTOR_LOADS,
    PREDICTOR_SWAP_SECONDS,
)
from whimbrel.predictors import loading_threads, memory, sources
from whimbrel.predictors.batcher import Batcher, DeviceThreads, batching
from whimbrel.predictors.device_health import DeviceHealth
from whimbrel.predictors.network import Computing, Description, Network
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Located, Source
from whimbrel.predictors.tasks.task import Task
from whimbrel.predictors.timing import Stages
from whimbrel.predictors.version_metrics import Shown, VersionMetrics
from whimbrel.predictors.warm_up import warm_up

CURRENT, CANDIDATE, PREVIOUS = "current", "candidate", "previous"
READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"

Returned = TypeVar("Returned")

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Resident:
    """One loaded version. `users`: requests that were given to it and are not answered yet."""

    version: str
    source: Source
    task: Task
    batcher: Batcher
    computing: Computing
    needed_bytes: int
    life: AsyncExitStack
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def description(self) -> Description:
        return self.task.description

    @property
    def shown(self) -> Shown:
        return Shown(self.version, self.needed_bytes, self.computing)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self.users += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()


@dataclass(frozen=True, slots=True)
class Failure:
    source: Source
    reason: str


def _anything(_: Located) -> None:
    """What a model admits that is in no ensemble."""


class Residents:
    """`admit` raises PackageRefused for a version that may not become one of this model: it is asked before the load
    and once more at its end."""

    def __init__(
        self,
        name: str,
        settings: PredictorSettings,
        threads: DeviceThreads,
        admit: Callable[[Located], None] = _anything,
    ) -> None:
        self.name, self._settings, self._threads, self._admit = name, settings, threads, admit
        self.roles: dict[str, Resident] = {}
        self.candidate_percent = 0.0
        self.loading: Source | None = None
        self.failure: Failure | None = None
        self.stages = Stages()  # of the last load
        self.metrics = VersionMetrics(name)
        failing = PREDICTOR_DEVICE_FAILING.labels(name)
        failing.set_function(lambda: self.health.failing is not None)
        self._change: asyncio.Task[None] | None = None
        self._ending = threading.Event()

    @property
    def health(self) -> DeviceHealth:
        return self._threads.health

    @property
    def current(self) -> Resident | None:
        return self.roles.get(CURRENT)

    def pick(self, key: str, version: str | None) -> Resident:
        """The version that answers the request with this key: the named one, else by the candidate's share."""
        if version:
            return self._named(version)
        if self.current is None:
            raise Unavailable(f"the model {self.name!r} is not loaded yet", retry_after_seconds=1)
        candidate = self.roles.get(CANDIDATE)
        if candidate is not None and has_share(key, self.candidate_percent):
            return candidate
        return self.current

    async def load(self, source: Source, *, percent: float = 100.0, drain_and_swap: bool = False) -> None:
        """Load `source` beside the current version, or take it where it is resident; then give it its share.

        100 percent makes it the current one and the current one the previous. Loading needs room for both; where
        there is none and `drain_and_swap` allows it, which takes 100 percent, the current version is unloaded first.
        A version that fails to load changes nothing. Raises Unavailable (another change is going on, no memory),
        PackageRefused, NotFound and InputRefused.
        """
        if drain_and_swap and percent < 100:
            raise InputRefused(f"parameter drain_and_swap: expected it with 100 percent only, seen {percent:g}")
        await self._alone(self._load(source, percent, drain_and_swap))

    async def unload(self, version: str) -> None:
        """Give its memory back, after its last answer. Raises InputRefused for the current version, NotFound."""
        resident = self._named(version)
        if resident is self.current:
            raise InputRefused(f"expected a version that is not the current one, seen {version!r}; load another first")
        await self._alone(self._retire(resident))

    async def close(self) -> None:
        """Finish what was accepted; a load in progress ends."""
        self._ending.set()
        if self._change is not None:
            self._change.cancel()
            await asyncio.wait([self._change])
        for resident in list(self.roles.values()):
            await self._retire(resident)

    async def _alone(self, change: Coroutine[Any, Any, None]) -> None:
        """One change at a time; it goes on when the one who asked for it has left."""
        if self._change is not None and not self._change.done():
            change.close()
            raise Unavailable("expected no other change of versions, seen one going on", retry_after_seconds=2)
        self._change = asyncio.create_task(change)
        await asyncio.shield(self._change)

    async def _load(self, source: Source, percent: float, drain_and_swap: bool) -> None:
        started = time.monotonic()
        resident = self._resident_of(source)
        if resident is not None and resident is self.current and percent < 100:
            raise InputRefused(
                f"expected a version beside the current one for {percent:g} percent, seen {resident.version!r}, "
                "which is the current one; give another version 100 percent first"
            )
        if resident is None:
            resident = await self._loaded(source, drain_and_swap)
        await self._give_share(resident, percent)
        PREDICTOR_SWAP_SECONDS.labels(self.name).observe(time.monotonic() - started)
        seconds = round(time.monotonic() - started, 3)
        logger.info("serving", extra={**self._described(resident), "percent": percent, "seconds": seconds})

    def _described(self, resident: Resident) -> dict[str, str]:
        known = {"model": self.name, "version": resident.version, "digest": resident.description.digest}
        return known | asdict(resident.computing)

    def _resident_of(self, source: Source) -> Resident | None:
        found = [each for each in self.roles.values() if each.version == source.version]
        if not found:
            return None
        seen = found[0].description.digest
        if source.digest not in (None, seen):
            raise InputRefused(
                f"expected another version name for {source.digest}, seen {source.version!r}, which is {seen} already"
            )
        return found[0]

    async def _loaded(self, source: Source, drain_and_swap: bool) -> Resident:
        self.loading, current = source, self.current
        try:
            located = await self._fetched(source, self._leaving(drain_and_swap))
            resident = await self._started(located, self._leaving(drain_and_swap))
        except Exception as failed:
            error = _as_shortage(failed, source)
            reason = str(error) if isinstance(error, WhimbrelError) else f"unexpected {type(error).__name__}"
            self.failure = Failure(source, reason)
            PREDICTOR_LOADS.labels(self.name, "failed").inc()
            if current is not None and self.current is None:
                logger.warning("loading the former version again: %s", reason)
                self.roles[CURRENT] = await self._started(await self._located(current.source))
                self._show()
            raise error from failed.__cause__
        finally:
            self.loading = None
        self.failure = None
        PREDICTOR_LOADS.labels(self.name, "loaded").inc()
        return resident

    async def _fetched(self, source: Source, leaving: Sequence[Resident]) -> Located:
        """The package, when there may be room for it. The first one is fetched while the modules are imported, which
        takes longest then and tells how much memory is free."""
        with self.stages.timed("look"):
            needs = await self._aside(sources.look, source, self._settings)
        importing = asyncio.create_task(self._aside(sources.import_modules, needs))
        with self.stages.timed("import, fetch and verify"):
            if self.current is not None:
                await importing
                await self._check_room(source, needs.memory_bytes, leaving)
            located, _ = await asyncio.gather(self._located(source), importing)
        return located

    async def _located(self, source: Source) -> Located:
        return await self._aside(sources.locate, source, self._settings, self._check_goes_on)

    async def _aside(self, call: Callable[..., Returned], *arguments: Any) -> Returned:
        """In a thread, behind the requests where there are some."""
        return await loading_threads.in_its_own(call, *arguments, behind_others=self.current is not None)

    def _check_goes_on(self) -> None:
        """For threads, which nobody can cancel. Raises Unavailable at the end."""
        if self._ending.is_set():
            raise Unavailable("expected the time to load a version, seen the end of this predictor")

    async def _started(self, located: Located, leaving: Sequence[Resident] | None = None) -> Resident:
        """`leaving`: what may make room for it; None where there is some."""
        async with AsyncExitStack() as life:
            life.push_async_callback(self._shrink_cache)
            life.callback(located.release)
            self._admit(located)
            needed = await self._aside(sources.needed_bytes, located, self._settings)
            async with self._threads.taken.placing:
                if leaving is not None:
                    await self._make_room(located.source, needed, leaving)
                network, batcher, taken = await self._placed(located, needed, life)
            self._admit(located)  # what has loaded meanwhile counts as well
            task, computing = network.task, network.computing
            return Resident(located.version, located.source, task, batcher, computing, taken, life.pop_all())

    async def _placed(self, located: Located, needed: int, life: AsyncExitStack) -> tuple[Network, Batcher, int]:
        """In memory, and has answered once; leaves with `life`. With the bytes that it takes once it is built."""
        async with AsyncExitStack() as placed:
            with self._threads.taken.holding(needed), self.stages.timed("build"):
                network = await self._aside(sources.build, located, self._settings, self._check_goes_on)
                taken = await self._aside(sources.taken_bytes, located, network, self._settings)
            placed.enter_context(self._threads.taken.holding(taken))
            placed.push_async_callback(self._aside, memory.give_back)
            placed.callback(network.close)
            placed.callback(self.metrics.forget, located.version)
            names = {"model_name": self.name, "version": located.version}
            batcher = await placed.enter_async_context(
                batching(network, self._settings.batch_limits, self._threads, **names)
            )
            with self.stages.timed("warm up"):
                beside = self.current.batcher.times if self.current is not None else None
                await warm_up(batcher, network.task, self._settings, beside=beside)
            life.push_async_exit(placed.pop_all())
        return network, batcher, taken

    async def _shrink_cache(self) -> None:
        try:
            await self._aside(package_cache.shrink, self._settings.model_cache, self._settings.model_cache_bytes)
        except OSError as error:
            logger.warning("packages that nobody uses stay in the cache: %s", error)

    async def _make_room(self, source: Source, needed: int, leaving: Sequence[Resident]) -> None:
        """Unload what no request needs, as far as necessary; whether that is enough is known before it begins."""
        await self._check_room(source, needed, leaving)
        for resident in leaving:
            if needed <= self._free_bytes():
                return
            await self._retire(resident)

    def _leaving(self, drain_and_swap: bool) -> list[Resident]:
        """What may make room, first what is missed least."""
        roles = [PREVIOUS, CANDIDATE, *([CURRENT] if drain_and_swap else [])]
        return [self.roles[role] for role in roles if role in self.roles]

    async def _check_room(self, source: Source, needed: int, leaving: Sequence[Resident]) -> None:
        if needed > self._free_bytes():  # what batches left in the heap may do
            await self._aside(memory.give_back)
        free, freed = self._free_bytes(), sum(resident.needed_bytes for resident in leaving)
        if needed <= free + freed:
            return
        current = 0 if self.current is None or self.current in leaving else self.current.needed_bytes
        remedy = "; at 100 percent it fits with drain_and_swap" if needed <= free + freed + current else ""
        raise Unavailable(
            f"expected {needed} bytes of free memory for version {source.version or source.uri!r}, seen {free} and "
            f"{freed} in versions that may leave{remedy}",
            retry_after_seconds=30,
        )

    def _free_bytes(self) -> int:
        free, bound = memory.free_bytes(self._settings.device), self._settings.model_memory_bytes
        if bound is None:
            return free
        return min(free, bound - self._threads.taken.total)

    async def _give_share(self, resident: Resident, percent: float) -> None:
        """Everything that a request can see happens before the first await."""
        if resident is self.current:
            return
        self._release_role(resident)
        if percent >= 100 or self.current is None:
            leaving = self.roles.pop(PREVIOUS, None) if self.current else None
            if self.current is not None:
                self.roles[PREVIOUS] = self.current
            self.roles[CURRENT] = resident
        else:
            leaving = self.roles.get(CANDIDATE)
            self.roles[CANDIDATE], self.candidate_percent = resident, percent
        self._show()
        if leaving is not None:
            await self._retire(leaving)

    def _show(self) -> None:
        roles = {role: each.shown for role, each in self.roles.items()}
        self.metrics.show(roles, self.candidate_percent / 100)
        PREDICTOR_FREE_BYTES.set(self._free_bytes())

    def _release_role(self, resident: Resident) -> None:
        for role, each in list(self.roles.items()):
            if each is resident:
                del self.roles[role]

    async def _retire(self, resident: Resident) -> None:
        self._release_role(resident)
        if resident.users:
            await resident.unused.wait()
        await resident.life.aclose()
        self._show()
        logger.info("unloaded", extra=self._described(resident))

    def _named(self, version: str) -> Resident:
        for resident in self.roles.values():
            if resident.version == version:
                return resident
        at_hand = ", ".join(sorted(each.version for each in self.roles.values()))
        raise NotFound(f"expected one of the versions {at_hand or '(none)'}, seen {version!r}")


def _as_shortage(error: Exception, source: Source) -> Exception:
    """Unavailable for what the machine lacked, or its disk did not do; everything else as it is."""
    if isinstance(error, OSError) or memory.ran_short(error):
        return Unavailable(f"load of {source.uri}: {error}", retry_after_seconds=30)
    return error


def has_share(key: str, percent: float) -> bool:
    """Whether the request with this key belongs to the candidate: the same on every replica, and for a redelivery."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < percent / 100 * 2**64
