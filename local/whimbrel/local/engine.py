"""The one-machine engine: the lifetime of everything that `whimbrel up` runs.

async with Engine(settings) as engine:      # S3 store, MLflow, broker, gateway; the embedded buckets
    await engine.apply(render(settings.manifests))
    await engine.wait_ready(120)
    await engine.run_forever()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx

from whimbrel.core.errors import SettingsError, Unavailable
from whimbrel.local import embedded
from whimbrel.local.environment import machine_environment
from whimbrel.local.fields import check
from whimbrel.local.fronting import Fronting
from whimbrel.local.objects import Applied, AppliedObjects, Broker, read
from whimbrel.local.plan import BROKER, broker_url, fronts, plan
from whimbrel.local.processes import Place, Supervised
from whimbrel.local.settings import EngineSettings
from whimbrel.local.settling import Settling, settling
from whimbrel.local.state import Ports, locked, write_atomically, write_status
from whimbrel.local.wardship import Wardship
from whimbrel.local.workload import Probe, Workload

logger = logging.getLogger(__name__)

_BROKER_CONFIG = "broker.json"
_EMPTY_BROKER: dict[str, Any] = {"brokers": [], "triggers": []}
_POLL_SECONDS = 0.1

Progress = Callable[[list[dict[str, Any]]], None]


class Engine:
    """One engine on one state folder. All of it runs in one event loop; nothing here blocks it."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._state = settings.state.resolve()
        self._machine = machine_environment()
        self._lifetime = contextlib.AsyncExitStack()
        self._supervised: list[Supervised] = []
        self._broker_url: str | None = None
        self._applied = False
        self._closing = asyncio.Event()
        self.warnings: tuple[str, ...] = ()
        self.settling: Settling | None = None

    async def __aenter__(self) -> Engine:
        """Start the embedded services and the gateway, and wait until they are ready.

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

    async def create_store(self, objects: Iterable[dict[str, Any]]) -> None:
        """Make the buckets, queues and notifications that these objects ask of the embedded store, where missing.

        `apply` does it too; call this first where a model has to be in the store before anything serves it.
        """
        contents = embedded.store_contents(self._read(objects))
        await asyncio.to_thread(embedded.create, contents, self._s3_port)

    async def apply(self, objects: Iterable[dict[str, Any]]) -> None:
        """Run these objects, once. Raises InputRefused, with the path, for what this engine does not honour."""
        given = list(objects)
        applied = self._with_settings(self._read(given))
        ports = self._fronting.open(fronts(applied))
        planned = plan(applied, ports, self._machine)
        self.settling = settling(embedded.store_contents(applied), planned.workloads)
        await self.create_store(given)
        write_atomically(self._state / _BROKER_CONFIG, planned.broker)
        self._broker.hang_up()
        self._broker_url = _first_broker(applied, self._fronting.port(BROKER))
        await self._fronting.start()
        for workload in planned.workloads:
            self._fronting.attach(workload.name, self._run(workload))
        # It stops after those who post to it, and before those whom it delivers to.
        self._lifetime.push_async_callback(self._broker.stop)
        for workload in planned.sources:
            self._run(workload)
        self._applied = True
        self._changed()

    async def wait_ready(self, seconds: float, progress: Progress | None = None) -> None:
        """Until every process is ready; `progress` sees the components each time one changes.

        Raises SettingsError, its line, when one refused its settings, and Unavailable after `seconds`.
        """
        shown: list[dict[str, Any]] = []
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._ready:
            for process in self._supervised:
                if process.refused_to_start:
                    raise SettingsError(f"{process.workload.name} {process.last_exit}")
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(self._not_ready_after(seconds))
            shown = self._show(progress, shown)
            await asyncio.sleep(_POLL_SECONDS)
        self._show(progress, shown)

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
            "ready": self._applied and self._ready,
            "endpoints": self._endpoints(),
            "environment": embedded.settings_environment(self._s3_port, self._mlflow_port),
            "components": self._components(),
        }

    async def _start(self) -> None:
        settings = self._settings
        self._lifetime.enter_context(locked(self._state))
        wardship = Wardship(self._state)
        if orphans := await asyncio.to_thread(wardship.end_orphans):
            logger.warning("ended %d processes of an engine that was killed", len(orphans))
        ports = Ports(self._state)
        self._s3_port = ports.reserve("s3", settings.s3_port)
        self._mlflow_port = ports.reserve("mlflow", settings.mlflow_port)
        await wardship.start()
        self._lifetime.push_async_callback(wardship.stop)
        probes = await self._lifetime.enter_async_context(httpx.AsyncClient(trust_env=False))
        self._place = Place(self._state, wardship, probes, settings.stop_seconds, self._changed)
        self._fronting = await self._lifetime.enter_async_context(Fronting(ports, settings))
        await self._start_services()

    async def _start_services(self) -> None:
        write_atomically(self._state / _BROKER_CONFIG, _EMPTY_BROKER)
        store = embedded.store_workload(self._state, self._s3_port, self._machine)
        registry = embedded.mlflow_workload(self._state, self._mlflow_port, self._s3_port, self._machine)
        self._store = self._run(store)
        self._run(registry)
        self._broker = self._run(_broker_workload(self._state / _BROKER_CONFIG, self._machine))
        self._fronting.attach(BROKER, self._broker)
        await self._fronting.start()
        await self.wait_ready(self._settings.start_seconds)

    def _run(self, workload: Workload) -> Supervised:
        process = Supervised(workload, self._place)
        self._supervised.append(process)
        self._lifetime.push_async_callback(process.stop)
        process.start()
        return process

    def _read(self, objects: Iterable[dict[str, Any]]) -> AppliedObjects:
        """The objects as values; `warnings` then tells what of them is accepted and not enforced."""
        given = list(objects)
        self.warnings = tuple(
            f"{each['kind']} {each['metadata']['name']!r}: {path} is not enforced on one machine"
            for each in given
            for path in check(each)
        )
        return AppliedObjects([read(each) for each in given])

    def _with_settings(self, objects: AppliedObjects) -> AppliedObjects:
        """Every namespace has the ConfigMap and the Secret of this machine's services."""
        namespaces = sorted({each.namespace for each in objects.of(Applied)})
        given = [
            read(each)
            for namespace in namespaces
            for each in embedded.settings_objects(namespace, self._s3_port, self._mlflow_port)
        ]
        return objects.with_defaults(given)

    @property
    def _ready(self) -> bool:
        return bool(self._supervised) and all(process.ready for process in self._supervised)

    def _components(self) -> list[dict[str, Any]]:
        return [
            process.status() | {"port": self._fronting.known(process.workload.name) or process.workload.port}
            for process in self._supervised
        ]

    def _endpoints(self) -> dict[str, str]:
        endpoints = {
            "s3": f"http://127.0.0.1:{self._s3_port}",
            "mlflow": f"http://127.0.0.1:{self._mlflow_port}",
            "gateway": f"http://127.0.0.1:{self._fronting.gateway_port}",
        }
        return endpoints | ({"broker": self._broker_url} if self._broker_url else {})

    def _changed(self) -> None:
        write_status(self._state, self.status())

    def _show(self, progress: Progress | None, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
        components = self._components()
        if progress is not None and components != shown:
            progress(components)
        return components

    def _not_ready_after(self, seconds: float) -> str:
        waiting = [process for process in self._supervised if not process.ready]
        lines = (f"{process.workload.name} ({process.last_exit or 'still starting'})" for process in waiting)
        return f"not ready after {seconds:g} s: {', '.join(lines)}; see the logs in {self._state / 'logs'}"


def _broker_workload(config: Any, machine: dict[str, str]) -> Workload:
    return Workload(
        name=BROKER,
        kind="Broker",
        module="whimbrel.local.broker",
        arguments=("--http-port", "$(PORT)", "--config", str(config)),
        environment=machine,
        probe=Probe("/healthz", period_seconds=1, timeout_seconds=2),
        timeout_seconds=3600,  # it answers when it has delivered
    )


def _first_broker(objects: AppliedObjects, port: int) -> str | None:
    brokers = objects.of(Broker)
    return broker_url(port, brokers[0].namespace, brokers[0].name) if brokers else None
