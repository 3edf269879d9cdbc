"""The one-machine engine: the lifetime of everything that `whimbrel up` runs.

async with Engine(settings) as engine:      # S3 store, MLflow, broker, gateway, API server, controllers
    await engine.apply(render(settings.manifests))
    await engine.wait_ready(120)
    await engine.run_forever()
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from whimbrel.core.errors import InputRefused, SettingsError, Unavailable, WhimbrelError
from whimbrel.local import embedded
from whimbrel.local.api import kinds
from whimbrel.local.api.server import ApiServer, open_storage
from whimbrel.local.api.settings import ApiSettings
from whimbrel.local.applying import apply
from whimbrel.local.control import names
from whimbrel.local.control.broker_process import BrokerProcess
from whimbrel.local.control.door import verdict
from whimbrel.local.control.fleet import Fleet, by_service
from whimbrel.local.control.fronts import BROKER, Fronts
from whimbrel.local.control.loop import Controllers, Limits
from whimbrel.local.control.scaler import Scaler
from whimbrel.local.control.world import World
from whimbrel.local.embedded import StoreContents
from whimbrel.local.environment import machine_environment
from whimbrel.local.log_parts import LogPart
from whimbrel.local.processes import Place, Supervised
from whimbrel.local.settings import EngineSettings
from whimbrel.local.settling import Settling, settling
from whimbrel.local.state import Ports, locked, write_status
from whimbrel.local.wardship import Wardship
from whimbrel.local.workload import Workload

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_SERVICES = ("Revision", "Deployment")
_SOURCES = ("ContainerSource",)
_SETTINGS_DIGEST = "whimbrel.dev/engine-settings-digest"
_STORE_AGAIN_SECONDS = 2.0

Progress = Callable[[list[dict[str, Any]]], None]


class Engine:
    """One engine on one state folder. All of it runs in one event loop; nothing here blocks it."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._state = settings.state.resolve()
        self._machine = machine_environment()
        self._lifetime = contextlib.AsyncExitStack()
        self._services: list[Supervised] = []
        self._closing = asyncio.Event()
        self._controllers: Controllers | None = None
        self._applied_version: int | None = None
        self._contents = StoreContents()
        self._created_contents = StoreContents()
        self._creating: asyncio.Task[None] | None = None
        self._written: dict[str, Any] = {}
        self.restored = False  # whether an engine before this one left something to run
        self.warnings: tuple[str, ...] = ()
        self.settling: Settling | None = None

    async def __aenter__(self) -> Engine:
        """Start the embedded services, the API and the gateway, and wait until all but MLflow, the slowest, are ready.

        Raises SettingsError when another engine has the state folder, or a port that was asked for is in use.
        """
        try:
            await self._start()
        except BaseException:
            await self._lifetime.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything, in the reverse order of its start."""
        await self._lifetime.aclose()

    @property
    def kubeconfig(self) -> Path:
        return self._api.kubeconfig

    async def create_store(self, objects: Iterable[dict[str, Any]]) -> None:
        """Make the buckets, queues and notifications that these objects ask of the embedded store, where missing.

        What is applied gets them anyway; call this first where a model has to be in the store before it is served.
        """
        await asyncio.to_thread(embedded.create, embedded.store_contents(objects), self._s3_port)

    async def wait_registry(self) -> None:
        """Until MLflow answers; for who needs a model before anything is applied. Raises as `wait_ready` does."""
        await self._until_ready([self._registry])

    async def apply(self, objects: Iterable[dict[str, Any]]) -> None:
        """Store these objects as `kubectl apply` does; the controllers run them.

        Raises InputRefused, with the path, for what this engine does not honour.
        """
        given = list(objects)
        embedded.store_contents(given)
        self.warnings = tuple(await asyncio.to_thread(apply, self._storage, verdict, given))
        self._applied_version = await asyncio.to_thread(lambda: self._storage.version)

    async def wait_ready(self, seconds: float, progress: Progress | None = None) -> None:
        """Until everything that is applied is ready; `progress` sees the components each time one changes.

        Raises SettingsError, its line, when one refused its settings, and Unavailable after `seconds`.
        """
        shown: list[dict[str, Any]] = []
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._ready:
            for process in self._processes():
                if process.refused_to_start:
                    raise SettingsError(f"{process.workload.name} {process.last_exit}")
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(self._not_ready_after(seconds))
            shown = self._show(progress, shown)
            await asyncio.sleep(_POLL_SECONDS)
        self._show(progress, shown)

    async def run(self, command: list[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
        """A command that does not outlive the engine; its status and what it wrote to stderr. Raises TimeoutError."""
        return await self._wardship.run(command, environment, seconds)

    async def run_forever(self) -> None:
        """Until `stop`."""
        await self._closing.wait()

    def stop(self) -> None:
        """End `run_forever`; safe to call in a signal's callback."""
        self._closing.set()

    def store_begun(self) -> datetime | None:
        """When the store that is ready now was started: of what was put before, its queue knows nothing."""
        return self._store.begun if self._store.ready else None

    def status(self) -> dict[str, Any]:
        return {
            "state": str(self._state),
            "ready": self._applied_version is not None and self._ready,
            "endpoints": self._endpoints(),
            "environment": embedded.settings_environment(self._s3_port, self._mlflow_port),
            "kubeconfig": str(self.kubeconfig),
            "components": self._components(),
        }

    async def _start(self) -> None:
        settings = self._settings
        self._lifetime.enter_context(locked(self._state))
        wardship = self._wardship = Wardship(self._state)
        if orphans := await asyncio.to_thread(wardship.end_orphans):
            logger.warning("ended %d processes of an engine that was killed", len(orphans))
        ports = Ports(self._state)
        self._s3_port = ports.reserve("s3", settings.s3_port)
        self._mlflow_port = ports.reserve("mlflow", settings.mlflow_port)
        await wardship.start()
        self._lifetime.push_async_callback(wardship.stop)
        probes = await self._lifetime.enter_async_context(httpx.AsyncClient(trust_env=False))
        self._place = Place(self._state, wardship, probes, settings.stop_seconds, self._changed)
        self._storage = await asyncio.to_thread(open_storage, self._state)
        self._lifetime.callback(self._storage.close)
        await self._start_services(ports)
        await self._start_controllers(ports)
        await self._until_ready([each for each in self._services if each is not self._registry])

    async def _start_services(self, ports: Ports) -> None:
        settings = self._settings
        self._fronts = Fronts(
            ports,
            settings.gateway_port,
            wait_seconds=settings.gateway_wait_seconds,
            max_in_flight=settings.gateway_max_in_flight,
        )
        self._api = ApiServer(
            self._storage,
            ApiSettings(state=self._state),
            ports.listener("api", settings.api_port),
            judge=verdict,
            logs=self._log_of,
        )
        self._store = self._run(embedded.store_workload(self._state, self._s3_port, self._machine))
        self._registry = self._run(
            embedded.mlflow_workload(self._state, self._mlflow_port, self._s3_port, self._machine)
        )
        self._broker = BrokerProcess(self._place, self._fronts.broker, self._machine, self._changed)
        self._services.append(self._broker.process)
        self._broker.start()
        self._lifetime.push_async_callback(self._fronts.stop)
        await self._fronts.start()

    async def _start_controllers(self, ports: Ports) -> None:
        settings = self._settings
        await asyncio.to_thread(self._forget_pods)
        self._fleet = Fleet(self._place, self._changed, settings.stop_seconds)
        self._scaler = Scaler(self._changed, max_waiting=settings.gateway_max_in_flight)
        limits = Limits(settings.stable_window_seconds, settings.most_replicas or max(2, os.cpu_count() or 2))
        self._controllers = Controllers(
            self._storage,
            fleet=self._fleet,
            fronts=self._fronts,
            scaler=self._scaler,
            broker=self._broker,
            machine=self._machine,
            kubeconfig=self.kubeconfig,
            limits=limits,
            prepare=self._prepare,
            followed=self._followed,
        )
        # Sources first, which feed the broker; then the broker; then those whom it delivers to, and the registry.
        self._lifetime.push_async_callback(self._stop_services)
        self._lifetime.push_async_callback(self._broker.stop)
        self._lifetime.push_async_callback(self._fleet.stop, _SOURCES)
        for task in (asyncio.create_task(self._controllers.run()), asyncio.create_task(self._scaler.run())):
            self._lifetime.push_async_callback(_end, task)
        await self._api.start()
        self._lifetime.push_async_callback(self._api.stop)

    async def _until_ready(self, services: Sequence[Supervised]) -> None:
        seconds = self._settings.start_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        while not all(process.ready for process in services):
            for process in services:
                if process.refused_to_start:
                    raise SettingsError(f"{process.workload.name} {process.last_exit}")
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(self._not_ready_after(seconds))
            await asyncio.sleep(_POLL_SECONDS)

    async def _stop_services(self) -> None:
        await asyncio.gather(self._fleet.stop(_SERVICES), self._registry.stop())

    def _run(self, workload: Workload) -> Supervised:
        process = Supervised(workload, self._place)
        self._services.append(process)
        self._lifetime.push_async_callback(process.stop)
        process.start()
        return process

    def _forget_pods(self) -> None:
        """Those of the engine before this one have ended with it."""
        self.restored = any(self._storage.list(kind) for kind in (kinds.REVISION, kinds.DEPLOYMENT))
        for pod in self._storage.list(kinds.POD):
            self._storage.delete(kinds.POD, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _prepare(self, world: World) -> None:
        """Every namespace has the ConfigMap and the Secret of this machine's services, unless a user wrote others."""
        for namespace in world.of(kinds.NAMESPACE):
            if namespace.get("status", {}).get("phase") != "Terminating":
                name = namespace["metadata"]["name"]
                for wanted in embedded.settings_objects(name, self._s3_port, self._mlflow_port):
                    _settle(world, wanted)
        try:
            self._contents = embedded.store_contents(world.of(kinds.CONFIG_MAP))
        except InputRefused as error:
            logger.warning("the embedded store stays as it is: %s", error)

    def _followed(self, world: World) -> None:
        if self._contents != self._created_contents and (self._creating is None or self._creating.done()):
            self._creating = asyncio.create_task(self._create_contents(self._contents))
        environments = [process.workload.environment for *_, process in self._fleet.each()]
        self.settling = settling(self._contents, environments)
        self._changed_status()

    async def _create_contents(self, contents: StoreContents) -> None:
        try:
            if self._store.ready:
                await asyncio.to_thread(embedded.create, contents, self._s3_port)
                self._created_contents = contents
        except (WhimbrelError, OSError) as error:
            logger.warning("the embedded store lacks what is applied: %s", error)
        except Exception:  # the S3 client's own
            logger.exception("the embedded store lacks what is applied")
        if self._created_contents != contents:
            await asyncio.sleep(_STORE_AGAIN_SECONDS)
            self._changed()

    def _log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogPart | None:
        return self._fleet.log((namespace, pod), previous=previous) if self._controllers is not None else None

    @property
    def _ready(self) -> bool:
        if self._controllers is None or self._controllers.outcome is None:
            return False
        outcome, applied = self._controllers.outcome, self._applied_version or 0
        return (
            self._controllers.version >= applied
            and not outcome.unready
            and self._contents == self._created_contents
            and all(process.ready for process in self._processes())
        )

    def _processes(self) -> list[Supervised]:
        fleet = [process for *_, process in self._fleet.each()] if self._controllers else []
        return [*self._services, *fleet]

    def _components(self) -> list[dict[str, Any]]:
        """The services of this machine, then one entry for each service and source that is applied."""
        found = [process.status() | {"port": self._known_port(process)} for process in self._services]
        if self._controllers is None:
            return found
        processes = by_service(self._fleet.each())
        found += [self._component(kind, name, each) for (kind, name), each in processes.items()]
        listed = {name for _, name in processes}
        for plan in self._controllers.outcome.routes if self._controllers.outcome else ():
            if plan.service and plan.service not in listed:
                listed.add(plan.service)
                found.append(self._component(plan.kind, plan.service, []))
        return found

    def _component(self, kind: str, name: str, processes: list[Supervised]) -> dict[str, Any]:
        first = processes[0].status() if processes else {"pid": None, "last_exit": None, "log": None}
        return first | {
            "name": name,
            "kind": kind,
            "ready": all(process.ready for process in processes),
            "replicas": len(processes),
            "restarts": self._fleet.restarts(name),
            "port": self._fronts.known(name),
        }

    def _known_port(self, process: Supervised) -> int | None:
        return self._fronts.known(BROKER) if process is self._broker.process else process.workload.port

    def _endpoints(self) -> dict[str, str]:
        endpoints = {
            "api": self._api.url,
            "s3": f"http://127.0.0.1:{self._s3_port}",
            "mlflow": f"http://127.0.0.1:{self._mlflow_port}",
            "gateway": f"http://127.0.0.1:{self._fronts.gateway_port}",
        }
        brokers = (
            self._controllers.outcome.broker.get("brokers", [])
            if self._controllers and self._controllers.outcome
            else []
        )
        if brokers:
            base = f"http://127.0.0.1:{self._fronts.known(BROKER)}"
            endpoints["broker"] = f"{base}/{brokers[0]['namespace']}/{brokers[0]['name']}"
        return endpoints

    def _changed(self) -> None:
        if self._controllers is not None:
            self._controllers.wake()

    def _changed_status(self) -> None:
        status = self.status()
        if status != self._written:
            self._written = status
            write_status(self._state, status)

    def _show(self, progress: Progress | None, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
        components = self._components()
        if progress is not None and components != shown:
            progress(components)
        return components

    def _not_ready_after(self, seconds: float) -> str:
        waiting = [process for process in self._processes() if not process.ready]
        lines = [f"{process.workload.name} ({process.last_exit or 'still starting'})" for process in waiting]
        if self._controllers is not None and self._controllers.outcome is not None:
            lines += self._controllers.outcome.unready
        return f"not ready after {seconds:g} s: {', '.join(lines)}; see the logs in {self._state / 'logs'}"


def _settle(world: World, wanted: dict[str, Any]) -> None:
    """Create it, or renew what nobody but an engine has written."""
    kind = kinds.SECRET if wanted["kind"] == "Secret" else kinds.CONFIG_MAP
    digest = _digest(wanted["data"])
    found = world.find(kind, wanted["metadata"]["namespace"], wanted["metadata"]["name"])
    if found is not None and names.annotations_of(found).get(_SETTINGS_DIGEST) != _digest(found.get("data")):
        return
    annotations = (names.annotations_of(found) if found else {}) | {_SETTINGS_DIGEST: digest}
    world.ensure(kind, {**wanted, "metadata": wanted["metadata"] | {"annotations": annotations}})


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
