"""Follows a model pointer: reads it every few seconds, brings the resident versions to it, and reports what is held.

Level-triggered: each round compares what the pointer says with what is resident, whatever came before, so a replica
that was killed in the middle of a swap, or slept through three pointers, arrives at the last one. While the store is
away, what is resident goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
import uuid
from collections import Counter
from typing import Any

from whimbrel.core.attestations import NOTHING
from whimbrel.core.errors import InputRefused, ModelFailed, PackageRefused, WhimbrelError
from whimbrel.core.metrics import PREDICTOR_POINTER_SYNCED
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore, Read, Replica
from whimbrel.predictors.residents import CANDIDATE, Residents
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.sources import Source, check_allowed
from whimbrel.predictors.versions import rows

ATTEMPTS = 3  # at a version that does not compute: the fault may be the device's, and pass

logger = logging.getLogger(__name__)


class PointerFollower:
    def __init__(self, store: PointerStore, residents: Residents, settings: PredictorSettings) -> None:
        self._store, self._residents, self._settings = store, residents, settings
        self.uid = uuid.uuid4().hex
        self._read: Read | None = None
        self._refused: dict[PointedVersion, str] = {}  # of this pointer, and why; they are not tried again
        self._failures = Counter[PointedVersion]()  # warm-ups of this pointer's versions
        self._error: str | None = None
        self._reported: tuple[Any, ...] = ()
        self._counted: dict[str, tuple[int, int]] = {}
        self._reported_at = -math.inf
        self._reporting = asyncio.Lock()
        self._on_its_way: asyncio.Task[None] | None = None  # a thread that nobody can cancel

    async def start(self) -> None:
        """Arrive at the pointer's current version. Raises what the store or the load raised."""
        await self._look()
        assert self._read is not None  # noqa: S101 it was read, or that raised
        await self._to_current(self._read.pointer)

    async def run(self) -> None:
        """One round after another, until cancelled; the lease is kept up while a load takes its time."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._keep_reported())
            while True:
                await self.round()
                await asyncio.sleep(self._settings.pointer_poll_seconds * random.uniform(0.75, 1.25))  # noqa: S311

    async def _keep_reported(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(min(self._settings.pointer_poll_seconds, self._settings.pointer_lease_seconds / 4))

    async def round(self) -> None:
        """Read, reconcile, report; what fails is logged, reported, and tried again in the next round."""
        try:
            await self._look()
            if self._read is not None:
                await self._reconcile(self._read.pointer)
            self._error = None
        except Exception as error:  # whatever a load raises: the next round tries again
            self._failed(error)
        PREDICTOR_POINTER_SYNCED.labels(self._residents.name).set(self._synced())
        await self._report()

    def _failed(self, error: Exception) -> None:
        ours = isinstance(error, WhimbrelError)
        reason = str(error) if ours else f"unexpected {type(error).__name__}: {error}"
        if self._error != reason:
            logger.warning("not at the pointer's state: %s", reason, exc_info=None if ours else error)
        self._error = reason

    async def stop(self) -> None:
        """Take the report back; one that is still on its way would come after that."""
        if self._on_its_way is not None:
            await asyncio.wait([self._on_its_way])
        with contextlib.suppress(WhimbrelError):
            await asyncio.to_thread(self._store.forget, self.uid)

    def state(self) -> dict[str, Any]:
        etag = self._read.etag if self._read else ""
        return {"uri": self._store.place.uri, "etag": etag, "synced": self._synced(), "error": self._error}

    async def _look(self) -> None:
        read = await asyncio.to_thread(self._store.read, self._read.etag if self._read else None)
        if read is not None:
            self._read, self._refused, self._failures = read, {}, Counter()
            logger.info(
                "pointer",
                extra={"model": self._residents.name, "etag": read.etag, "current": read.pointer.current.version},
            )

    async def _reconcile(self, pointer: Pointer) -> None:
        await self._to_current(pointer)
        candidate = self._residents.roles.get(CANDIDATE)
        if pointer.candidate is None:
            if candidate is not None:
                await self._residents.unload(candidate.version)
        elif not self._holds(CANDIDATE, pointer.candidate) or self._residents.candidate_percent != pointer.share:
            await self._load(pointer.candidate, pointer.share, drain_and_swap=False)

    async def _to_current(self, pointer: Pointer) -> None:
        if not self._holds("current", pointer.current):
            await self._load(pointer.current, 100.0, drain_and_swap=pointer.drain_and_swap)

    async def _load(self, version: PointedVersion, percent: float, *, drain_and_swap: bool) -> None:
        if version in self._refused:
            raise PackageRefused(self._refused[version])
        try:
            if self._settings.allowed_uri_prefixes:
                check_allowed(version.uri, self._settings.allowed_uri_prefixes)
            source = Source(version.version, version.uri, version.digest, version.attestations or NOTHING)
            await self._residents.load(source, percent=percent, drain_and_swap=drain_and_swap)
        except (PackageRefused, InputRefused) as error:
            self._refused[version] = str(error)
            raise
        except ModelFailed as error:
            self._failures[version] += 1
            if drain_and_swap or self._failures[version] == ATTEMPTS:  # a drain costs the current version each time
                self._refused[version] = str(error)
            raise

    def _holds(self, role: str, version: PointedVersion) -> bool:
        resident = self._residents.roles.get(role)
        if resident is None:
            return False
        return (resident.version, resident.description.digest) == (version.version, version.digest)

    def _synced(self) -> bool:
        if self._read is None:
            return False
        pointer = self._read.pointer
        if not self._holds("current", pointer.current):
            return False
        if pointer.candidate is None:
            return CANDIDATE not in self._residents.roles
        return self._holds(CANDIDATE, pointer.candidate) and self._residents.candidate_percent == pointer.share

    async def _report(self) -> None:
        """What changed at once, counts of requests at each poll, and all of it each third of the lease."""
        async with self._reporting:
            await self._report_changed()

    async def _report_changed(self) -> None:
        etag, synced, held = self._read.etag if self._read else "", self._synced(), rows(self._residents)
        content, counted = (etag, synced, self._error, held), dict(self._residents.metrics.requests)
        now, lease = time.monotonic(), self._settings.pointer_lease_seconds
        due = self._reported_at + (lease / 3 if counted == self._counted else self._settings.pointer_poll_seconds)
        if content == self._reported and now < due:
            return
        replica = Replica(
            uid=self.uid,
            expires=time.time() + lease,
            pointer_etag=etag,
            synced=synced,
            error=self._error,
            refused=tuple(version.digest for version in self._refused),
            versions=tuple(row | _counts(counted.get(row["version"])) for row in held),
        )
        try:
            self._on_its_way = asyncio.create_task(asyncio.to_thread(self._store.report, replica))
            await asyncio.shield(self._on_its_way)
        except WhimbrelError as error:
            logger.warning("report: %s", error)
            return
        self._reported, self._counted, self._reported_at = content, counted, time.monotonic()


def _counts(counted: tuple[int, int] | None) -> dict[str, int]:
    answered, failed = counted or (0, 0)
    return {"answered": answered, "failed": failed}
