"""The API server within an event loop that others use too: its files, its port, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from whimbrel.core.errors import SettingsError
from whimbrel.local.api import access
from whimbrel.local.api.admission import Judge, by_table
from whimbrel.local.api.application import Api
from whimbrel.local.api.pod_logs import PodLogs, logs_in
from whimbrel.local.api.settings import ApiSettings
from whimbrel.local.api.storage import Storage

_DRAIN_SECONDS = 5
_LAST_BYTES_SECONDS = 0.3  # for what is written to leave; a TLS connection closes only when its client says so
_POLL_SECONDS = 0.05
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they close first


def open_storage(state: Path) -> Storage:
    """The objects of a state folder. Raises SettingsError where their file cannot be read."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / "objects.db"
    try:
        return Storage(file)
    except (sqlite3.Error, OSError) as error:
        raise SettingsError(
            f"expected {file} to hold the objects of the API: {error}; move it away, or choose another --state"
        ) from None


class ApiServer:
    """Serves `storage` on `listening`, a socket of loopback, and writes the kubeconfig for it. Signals are others'."""

    def __init__(
        self,
        storage: Storage,
        settings: ApiSettings,
        listening: socket.socket,
        *,
        judge: Judge = by_table,
        logs: PodLogs | None = None,
    ) -> None:
        found = access.prepare(settings.state / "api")
        self._api = Api(storage, found, settings, judge=judge, logs=logs or logs_in(settings.api_logs))
        self._socket = listening
        config = uvicorn.Config(
            self._api,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=found.certificate,
            ssl_keyfile=found.key,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        self.kubeconfig = settings.state / "kubeconfig"
        access.write_kubeconfig(self.kubeconfig, self.url, found)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Watches end, what was accepted is answered, and idle clients are not waited for."""
        self._api.stop()
        self._server.should_exit = True
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained(), _DRAIN_SECONDS)
            self._server.force_exit = True
            await self._task
        self._socket.close()

    async def _drained(self) -> None:
        while not self._api.is_idle:  # noqa: ASYNC110  uvicorn tells nobody either
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(_LAST_BYTES_SECONDS)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
