"""The processes of the pods: started when a pod appears, drained and stopped when it goes, known while they run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from whimbrel.core.errors import InputRefused
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import names
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.routing import Key
from whimbrel.local.ingress.replicas import Replica, Replicas
from whimbrel.local.log_parts import LogPart
from whimbrel.local.processes import Place, Supervised
from whimbrel.local.workload import Workload

logger = logging.getLogger(__name__)

_LOGS_KEPT = 100  # of pods that are gone


@dataclass(eq=False)
class _Running:
    uid: str
    owner: str  # its uid
    kind: str  # of its owner
    shown: str  # the kind that a user applied
    service: str  # how the status calls it
    process: Supervised
    replicas: Replicas | None
    drain_seconds: float
    replica: Replica | None = None


class Fleet:
    """`changed` is called whenever what `seen` tells has changed; all of it runs in one event loop.

    What a process that goes has been given is waited for as long as its service lets a request take; when all of it
    stops, for `stop_seconds` at most.
    """

    def __init__(self, place: Place, changed: Callable[[], None], stop_seconds: float) -> None:
        self._place = place
        self._changed = changed
        self._stop_seconds = stop_seconds
        self._hurry = asyncio.Event()
        self._running: dict[Key, _Running] = {}
        self._faults: dict[Key, str] = {}
        self._restarts_gone: dict[str, int] = {}
        self._ending: dict[asyncio.Task[None], str] = {}  # with the uid of their pods' owner

    def follow(
        self,
        pods: Sequence[tuple[Object, str]],
        build: Callable[[Object, str], Workload],
        replicas_of: Callable[[Object], Replicas | None],
    ) -> None:
        """Run exactly these pods, each with the kind of its owner."""
        wanted = {names.of(pod): (pod, kind) for pod, kind in pods}
        for key, running in list(self._running.items()):
            if key not in wanted or wanted[key][0]["metadata"]["uid"] != running.uid:
                self._let_go(key)
        self._faults = {key: fault for key, fault in self._faults.items() if key in wanted}
        for key, (pod, kind) in wanted.items():
            if key not in self._running:
                self._start(key, pod, kind, build, replicas_of)

    def seen(self) -> dict[Key, Seen]:
        found = {key: _seen(running.process) for key, running in self._running.items()}
        return found | {key: Seen(fault=fault) for key, fault in self._faults.items()}

    def each(self) -> list[tuple[Key, str, str, Supervised]]:
        """Every pod with the kind and the name of what a user knows it by, and its process."""
        return [(key, running.shown, running.service, running.process) for key, running in self._running.items()]

    def log(self, key: Key, *, previous: bool) -> LogPart | None:
        """Of the process of a pod; None where it has not begun, or has had no other before."""
        running = self._running.get(key)
        return running.process.log(previous=previous) if running is not None else None

    def restarts(self, service: str) -> int:
        """Of all processes that it has had."""
        now = sum(each.process.restarts for each in self._running.values() if each.service == service)
        return now + self._restarts_gone.get(service, 0)

    async def stop(self, kinds: Sequence[str]) -> None:
        """End the processes of owners of these kinds, and wait for those that are ending."""
        for key in [key for key, running in self._running.items() if running.kind in kinds]:
            self._let_go(key)
        hurry = asyncio.get_running_loop().call_later(self._stop_seconds, self._hurry.set)
        try:
            await asyncio.gather(*self._ending)
        finally:
            hurry.cancel()
            self._hurry.clear()

    def ending(self) -> frozenset[str]:
        """The uids of owners with a process that has not ended though its pod is gone."""
        return frozenset(self._ending.values())

    def _start(
        self,
        key: Key,
        pod: Object,
        kind: str,
        build: Callable[[Object, str], Workload],
        replicas_of: Callable[[Object], Replicas | None],
    ) -> None:
        try:
            workload = build(pod, kind)
        except Exception as error:  # of one pod: the others start
            known = isinstance(error, InputRefused)
            fault = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            if self._faults.get(key) != fault:
                self._faults[key] = fault
                logger.warning("pod %s cannot be started: %s", key[1], fault, exc_info=not known)
                self._changed()
            return
        self._faults.pop(key, None)
        labels = names.labels_of(pod)
        owner = pod["metadata"]["ownerReferences"][0]
        process = Supervised(workload, self._place, changed=lambda: self._follow_readiness(key))
        service = names.qualified(labels.get(names.SERVICE_LABEL) or owner["name"], key[0])
        uids, shown = (pod["metadata"]["uid"], owner["uid"]), _shown(kind, labels)
        drain = float(pod["spec"].get("terminationGracePeriodSeconds", self._stop_seconds))
        self._running[key] = _Running(*uids, kind, shown, service, process, replicas_of(pod), drain)
        process.start()

    def _follow_readiness(self, key: Key) -> None:
        running = self._running.get(key)
        if running is not None and running.replicas is not None:
            address = running.process.ready_address
            if address is not None and running.replica is None:
                running.replica = running.replicas.add(key[1], address)
            elif address is None and running.replica is not None:
                running.replicas.discard(running.replica)
                running.replica = None
        self._changed()

    def _let_go(self, key: Key) -> None:
        running = self._running.pop(key)
        gone = self._restarts_gone.get(running.service, 0)
        self._restarts_gone[running.service] = gone + running.process.restarts
        ending = asyncio.create_task(self._end(running), name=f"end {key[1]}")
        self._ending[ending] = running.owner
        ending.add_done_callback(self._forget)

    def _forget(self, ended: asyncio.Task[None]) -> None:
        del self._ending[ended]
        self._changed()

    async def _end(self, running: _Running) -> None:
        """What it was given is answered first."""
        try:
            if running.replicas is not None and running.replica is not None:
                await self._drain(running.replicas, running.replica, running.drain_seconds)
        finally:
            await running.process.stop()
            self._prune_logs()

    async def _drain(self, replicas: Replicas, replica: Replica, seconds: float) -> None:
        draining = asyncio.create_task(replicas.remove(replica, seconds))
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            hurried.cancel()

    def _prune_logs(self) -> None:
        used = {self._place.log(running.process.workload.name).name for running in self._running.values()}
        found = self._place.state.glob("logs/*-?????.*log*")  # POD.log, POD.NAMESPACE.log, and .1 of one put aside
        gone = [path for path in found if path.name.removesuffix(".1") not in used]
        for path in sorted(gone, key=lambda each: each.stat().st_mtime)[:-_LOGS_KEPT]:
            path.unlink(missing_ok=True)


def _shown(kind: str, labels: Mapping[str, str]) -> str:
    if kind != "Revision":
        return kind
    return "InferenceService" if names.INFERENCE_SERVICE_LABEL in labels else "Service"


def _seen(process: Supervised) -> Seen:
    return Seen(
        running=process.running,
        ready=process.ready,
        restarts=process.restarts,
        last_exit=process.last_exit or "",
        exit_status=process.exit_status,
        started=process.begun.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if process.begun else "",
    )


def by_service(each: Sequence[tuple[Key, str, str, Supervised]]) -> Mapping[tuple[str, str], list[Supervised]]:
    """The processes of every service and source, by kind and name."""
    found: dict[tuple[str, str], list[Supervised]] = {}
    for _, kind, service, process in each:
        found.setdefault((kind, service), []).append(process)
    return found
