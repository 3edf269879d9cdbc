"""The broker's process: its configuration, and whether what it runs is the latest one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from whimbrel.local.control.routing import Key
from whimbrel.local.ingress.replicas import Replica, Replicas
from whimbrel.local.processes import Place, Supervised
from whimbrel.local.state import write_atomically
from whimbrel.local.workload import Probe, Workload

logger = logging.getLogger(__name__)

_CONFIG = "broker.json"
_POLL_SECONDS = 0.02
EMPTY: dict[str, Any] = {"brokers": [], "triggers": []}


class BrokerProcess:
    """`running` are the brokers that the process knows, once it has read the latest configuration."""

    def __init__(self, place: Place, replicas: Replicas, machine: dict[str, str], changed: Callable[[], None]) -> None:
        self._place, self._replicas, self._changed = place, replicas, changed
        self._config_file = place.state / _CONFIG
        self._config = EMPTY
        self._generation = 0
        self._replica: Replica | None = None
        self._asking: asyncio.Task[None] | None = None
        self.running: frozenset[Key] = frozenset()
        self._write(EMPTY, 0)
        self.process = Supervised(_workload(self._config_file, machine), place, changed=self._follow)

    def start(self) -> None:
        self.process.start()

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        await self.process.stop()

    def configure(self, config: dict[str, Any]) -> None:
        """Written, and read by the process a moment later; `running` then tells."""
        if config == self._config:
            return
        try:
            self._write(config, self._generation + 1)
        except OSError as error:  # the next pass tries again
            logger.warning("the broker keeps its configuration, a new one could not be written: %s", error)
            return
        self._config = config
        self._generation += 1
        self.process.hang_up()
        self._ask()

    def _write(self, config: dict[str, Any], generation: int) -> None:
        write_atomically(self._config_file, config | {"generation": generation})

    def _follow(self) -> None:
        address = self.process.ready_address
        if address is not None and self._replica is None:
            self._replica = self._replicas.add("broker", address)
            self._ask()
        elif address is None and self._replica is not None:
            self._replicas.discard(self._replica)
            self._replica = None
            self.running = frozenset()
        self._changed()

    def _ask(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._until_it_has_read(), name="broker configuration")

    async def _until_it_has_read(self) -> None:
        while (address := self.process.ready_address) is not None:
            if await self._read_generation(address.http_port) == self._generation:
                self.running = frozenset((each["namespace"], each["name"]) for each in self._config["brokers"])
                self._changed()
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _read_generation(self, port: int) -> int | None:
        try:
            answer = await self._place.probes.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
            return int(answer.json()["generation"])
        except (httpx.HTTPError, ValueError, KeyError, json.JSONDecodeError):
            return None


def _workload(config: Path, machine: dict[str, str]) -> Workload:
    return Workload(
        name="broker",
        kind="Broker",
        module="whimbrel.local.broker",
        arguments=("--http-port", "$(PORT)", "--config", str(config)),
        environment=machine,
        probe=Probe("/healthz", period_seconds=1, timeout_seconds=2),
    )
