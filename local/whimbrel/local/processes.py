"""Keeps one process running: starts it, watches its readiness, starts it again when it ends, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from whimbrel.local.groups import is_ours, signal_group, start_time
from whimbrel.local.log_parts import LogPart
from whimbrel.local.state import free_port
from whimbrel.local.wardship import Wardship
from whimbrel.local.workload import Probe, Workload, expand

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_STARTING_PERIOD_SECONDS = 0.02  # readiness is asked for often until the first yes
_STOP_POLL_SECONDS = 0.05
_TAIL_BYTES = 4096
LONGEST_LOG_BYTES = 64 * 1024 * 1024  # at the start of its process


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ready process listens."""

    http_port: int
    grpc_port: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What every process of one engine shares."""

    state: Path
    wardship: Wardship
    probes: httpx.AsyncClient
    stop_seconds: float
    changed: Callable[[], None]

    def log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"


class Supervised:
    """One workload's process, from the first start to the stop."""

    def __init__(self, workload: Workload, place: Place, changed: Callable[[], None] | None = None) -> None:
        self.workload = workload
        self._place = place
        self._changed = changed or place.changed
        self._process: asyncio.subprocess.Process | None = None
        self._address: Address | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._was_ready = False
        self._hang_up_due = False
        self._failures = 0
        self._log: LogPart | None = None
        self._previous_log: LogPart | None = None
        self.begun: datetime | None = None
        self.restarts = 0
        self.last_exit: str | None = None
        self.exit_status: int | None = None

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def ready_address(self) -> Address | None:
        return self._address if self.ready else None

    @property
    def refused_to_start(self) -> bool:
        """It ended by itself with status 2, a wrong setting, and has never been ready."""
        return self.exit_status == 2 and not self._was_ready

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=self.workload.name)

    async def address(self, seconds: float) -> Address | None:
        """Where it listens once it is ready; None when it is not within `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        return self._address if self.ready else None

    def hang_up(self) -> None:
        """SIGHUP, so that it reads its configuration again: now, or as soon as it is ready to take it."""
        self._hang_up_due = not self.ready
        if self.ready and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """SIGTERM, wait for what it accepted, SIGKILL; returns when no process of the group is left."""
        self._stopping.set()
        if self._keeper is None:
            return
        try:
            await asyncio.shield(self._keeper)
        except asyncio.CancelledError:  # whoever waits has no more patience
            if self._process is not None and self._process.returncode is None:
                signal_group(self._process.pid, signal.SIGKILL)
            await self._keeper
            raise

    def log(self, *, previous: bool) -> LogPart | None:
        """What its present process has written, or the one before; None where there is none."""
        return self._previous_log if previous else self._log

    def status(self) -> dict[str, Any]:
        return {
            "name": self.workload.name,
            "kind": self.workload.kind,
            "ready": self.ready,
            "pid": self._process.pid if self.running and self._process else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": str(self._place.log(self.workload.name)),
        }

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                self._process = await self._spawn()
            except (OSError, ValueError) as error:  # ValueError: a NUL in its environment
                self._note_exit(None, f"could not be started: {error}")
            else:
                await self._watch(self._process)
            if not self._stopping.is_set():
                await self._pause()

    async def _spawn(self) -> asyncio.subprocess.Process:
        workload, place = self.workload, self._place
        self.begun = datetime.now(UTC)
        http_port = workload.port or free_port()
        self._address = Address(http_port, free_port() if workload.grpc else http_port if workload.h2c else None)
        environment = {**workload.environment, "PORT": str(http_port)}
        if workload.grpc:
            environment["WHIMBREL_GRPC_PORT"] = str(self._address.grpc_port)
        command = [expand(each, environment) for each in (*_command(workload), *workload.arguments)]
        log = place.log(workload.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._end_log(log, _put_aside_when_long(log))
        with log.open("ab") as output:
            self._log = LogPart(log, output.tell())
            process = await asyncio.create_subprocess_exec(
                *place.wardship.command(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=place.state,  # not the checkout, whose folders have the names of real packages
                start_new_session=True,
                pass_fds=(place.wardship.descriptor,),
            )
        try:
            place.wardship.began(process.pid)
        except BaseException:  # nobody would watch it
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        return process

    def _end_log(self, log: Path, put_aside: Path | None) -> None:
        if self._log is not None:
            end = None if put_aside else log.stat().st_size if log.exists() else 0
            self._previous_log = LogPart(put_aside or log, self._log.start, end)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Until the process has ended, by itself or because of `stop`."""
        self._tell_change()
        started = time.monotonic()
        probing = asyncio.create_task(self._follow_readiness())
        ended, stopping = asyncio.create_task(process.wait()), asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        probing.cancel()
        stopping.cancel()
        self._ready.clear()
        by_itself = ended.done()
        if not by_itself:
            await self._end(process)
        status = await ended
        signal_group(process.pid, signal.SIGKILL)  # what its first process left behind
        self._place.wardship.ended(process.pid)
        if time.monotonic() - started >= _LONGEST_PAUSE_SECONDS:
            self._failures = 0
        if by_itself:
            self._note_exit(status, _how_it_ended(status) + _reason(self._place.log(self.workload.name), status))
        self._tell_change()

    async def _follow_readiness(self) -> None:
        probe = self.workload.probe
        if probe is None:
            self._become(True)
            return
        failed = 0
        while True:
            if await self._probe(probe):
                failed = 0
                self._become(True)
            else:
                failed += 1
                if failed >= probe.failure_threshold:
                    self._become(False)
            await asyncio.sleep(probe.period_seconds if self.ready else _STARTING_PERIOD_SECONDS)

    async def _probe(self, probe: Probe) -> bool:
        address = self._address
        if address is None:
            return False
        if not await _listens(address.http_port):  # far cheaper than a request, and asked often
            return False
        if not probe.path:
            return True
        url = f"http://127.0.0.1:{address.http_port}{probe.path}"
        try:
            return (await self._place.probes.get(url, timeout=probe.timeout_seconds)).is_success
        except httpx.HTTPError:
            return False

    def _become(self, ready: bool) -> None:
        if ready == self.ready:
            return
        if ready:
            self._ready.set()
            self._was_ready = True
            if self.workload.probe is not None:  # without one, to run is no sign that it works
                self._failures = 0
            if self._hang_up_due:
                self.hang_up()
        else:
            self._ready.clear()
        logger.info("%s is %s", self.workload.name, "ready" if ready else "not ready")
        self._tell_change()

    def _tell_change(self) -> None:
        try:
            self._changed()
        except OSError as error:
            logger.warning("%s changed, which could not be told: %s", self.workload.name, error)

    def _note_exit(self, status: int | None, how: str) -> None:
        self.exit_status, self.last_exit = status, how
        self.restarts += 1
        logger.warning("%s %s; it is started again", self.workload.name, how)

    async def _pause(self) -> None:
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10), _LONGEST_PAUSE_SECONDS)
        self._failures += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """SIGTERM, then SIGKILL to the group; the time to finish is its whole group's."""
        started = start_time(process.pid)
        signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._place.stop_seconds
        # No event tells that a group is empty.
        while started and is_ours(process.pid, started) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_STOP_POLL_SECONDS)
        signal_group(process.pid, signal.SIGKILL)


def _command(workload: Workload) -> tuple[str, ...]:
    return workload.command or (sys.executable, "-m", workload.module)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _put_aside_when_long(log: Path) -> Path | None:
    """One earlier log is kept, and where; what cannot be moved stays."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LONGEST_LOG_BYTES:
            return log.replace(log.with_name(log.name + ".1"))
    return None


def _how_it_ended(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):  # a real-time signal has no name
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"
    return f"ended with status {status}"


def _reason(log: Path, status: int) -> str:
    """The last line that it wrote, where it ended by itself."""
    if status < 0:
        return ""
    with contextlib.suppress(OSError), log.open("rb") as output:
        output.seek(max(0, output.seek(0, 2) - _TAIL_BYTES))
        lines = output.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""
    return ""
