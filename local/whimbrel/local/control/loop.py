"""The controllers' loop: a pass whenever an object or a process has changed, and what it asks for done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from whimbrel.local.api import kinds
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage
from whimbrel.local.control import names, pods
from whimbrel.local.control.broker_process import BrokerProcess
from whimbrel.local.control.fleet import Fleet
from whimbrel.local.control.fronts import Fronts
from whimbrel.local.control.outcome import Facts, Outcome
from whimbrel.local.control.passes import run
from whimbrel.local.control.recorder import Recorder
from whimbrel.local.control.retries import Retries
from whimbrel.local.control.scaler import Scaler
from whimbrel.local.control.world import World
from whimbrel.local.ingress.replicas import Replicas
from whimbrel.local.workload import Workload

logger = logging.getLogger(__name__)

_REST_SECONDS = 0.01  # changes that come together are taken together
_LOOK_AGAIN_SECONDS = 5.0  # deadlines pass without any change
_AFTER_A_FAULT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    stable_seconds: float
    most_replicas: int


class Controllers:
    """`prepare` runs before each pass, on its thread; `followed` after what the pass asked for is under way."""

    def __init__(
        self,
        storage: Storage,
        *,
        fleet: Fleet,
        fronts: Fronts,
        scaler: Scaler,
        broker: BrokerProcess,
        machine: Mapping[str, str],
        kubeconfig: Path,
        limits: Limits,
        prepare: Callable[[World], None],
        followed: Callable[[World], None],
    ) -> None:
        self._storage, self._fleet, self._fronts, self._scaler, self._broker = storage, fleet, fronts, scaler, broker
        self._machine, self._kubeconfig, self._limits = machine, kubeconfig, limits
        self._prepare, self._followed = prepare, followed
        self._recorder = Recorder(storage)
        self._due = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._world = World(storage)
        self._retries = Retries()
        self._told: dict[tuple[str, str], tuple[int, str]] = {}
        self.outcome: Outcome | None = None
        self.version = 0  # of the objects that the last pass saw

    def wake(self) -> None:
        """A pass is due; safe on any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._due.set)

    async def run(self) -> None:
        """Until cancelled."""
        forget = self._storage.on_change(self.wake)
        self._due.set()
        try:
            while True:
                await self._await_change()
                try:
                    await self._once()
                except Exception:  # whatever one pass meets, the next one begins anew
                    logger.exception("a pass of the controllers failed")
                    await asyncio.sleep(_AFTER_A_FAULT_SECONDS)
                    self._due.set()
                await asyncio.sleep(_REST_SECONDS)
        finally:
            forget()

    async def _await_change(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                await self._due.wait()
        except TimeoutError:
            pass
        self._due.clear()

    async def _once(self) -> None:
        resting = self._retries.resting(self._loop.time())
        facts = Facts(
            seen=self._fleet.seen(),
            replicas=self._scaler.wanted,
            service_port=self._fronts.port,
            gateway_port=self._fronts.gateway_port,
            broker_port=self._fronts.port("broker"),
            brokers_running=self._broker.running,
            stable_seconds=self._limits.stable_seconds,
            most_replicas=self._limits.most_replicas,
            now=datetime.now(UTC),
            ending=self._fleet.ending(),
            before=self.outcome or Outcome(),
            resting=resting,
        )
        version, world, outcome = await asyncio.to_thread(self._pass, facts)
        again = self._retries.note(resting, outcome.failed, self._loop.time())
        if again is not None:
            self._loop.call_later(again, self.wake)
        self._scaler.follow(outcome.revisions)
        await self._fronts.follow(outcome.routes, self._scaler.replicas)
        self._broker.configure(outcome.broker)
        self._world = world
        self._fleet.follow(outcome.pods, self._workload, self._replicas_of)
        self.outcome, self.version = outcome, version
        self._followed(world)

    def _pass(self, facts: Facts) -> tuple[int, World, Outcome]:
        """On a thread: it reads and writes the objects."""
        version, world = self._storage.version, World(self._storage)
        self._prepare(world)
        outcome = run(world, facts)
        for kind in (kinds.CONFIG_MAP, kinds.SECRET, kinds.KNATIVE_SERVICE):
            world.of(kind)  # what starting a process asks for, read here and not in the loop
        self._recorder.record([*outcome.happened, *self._restarts(facts, outcome)])
        return version, world, outcome

    def _restarts(self, facts: Facts, outcome: Outcome) -> list[tuple[Object, str, str, str]]:
        found = []
        for pod, _ in outcome.pods:
            seen = facts.seen.get(names.of(pod))
            if seen is None:
                continue
            state = (seen.restarts, seen.fault)
            if state != self._told.get(names.of(pod), (0, "")):
                message = seen.fault or f"Back-off restarting container: {seen.last_exit}"
                found.append((pod, "Warning", "Failed" if seen.fault else "BackOff", message))
            self._told[names.of(pod)] = state
        present = {names.of(pod) for pod, _ in outcome.pods}
        self._told = {key: state for key, state in self._told.items() if key in present}
        return found

    def _workload(self, pod: Object, kind: str) -> Workload:
        # Where a cluster would mount the token of a service account; there are no roles here.
        access = {"KUBECONFIG": str(self._kubeconfig)} if pod["spec"].get("automountServiceAccountToken") else {}
        return pods.workload(pod, kind, self._values, self._address, {**self._machine, **access})

    def _values(self, kind: str, namespace: str, name: str) -> Mapping[str, str] | None:
        if kind == "Secret":
            secret = self._world.find(kinds.SECRET, namespace, name)
            return None if secret is None else pods.secret_values(secret)
        found = self._world.find(kinds.CONFIG_MAP, namespace, name)
        return None if found is None else dict(found.get("data") or {})

    def _address(self, name: str, namespace: str) -> str | None:
        if self._world.find(kinds.KNATIVE_SERVICE, namespace, name) is None:
            return None
        return f"127.0.0.1:{self._fronts.port(names.qualified(name, namespace))}"

    def _replicas_of(self, pod: Object) -> Replicas | None:
        revision = names.labels_of(pod).get(names.REVISION_LABEL)
        return self._scaler.replicas((pod["metadata"]["namespace"], revision)) if revision else None
