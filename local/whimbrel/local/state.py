"""What the engine keeps in its state folder: a lock, the ports, its processes and its status."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whimbrel.core.errors import SettingsError
from whimbrel.core.sockets import listening_socket
from whimbrel.local.groups import start_time

logger = logging.getLogger(__name__)

_LOCK = "engine.lock"
_PORTS = "ports.json"
_PROCESSES = "processes.json"
_STATUS = "status.json"
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT, _TRIES = 15_000, 100


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder for this engine alone. Raises SettingsError, one line, while another one holds it."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        opened = (state / _LOCK).open("a+")
    except OSError as error:
        raise SettingsError(
            f"expected to write into the state folder {state}: {error.strerror}; choose another with --state"
        ) from None
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise SettingsError(
                f"the state folder {state} is in use by process {owner}; stop that one, or choose another with --state"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def write_atomically(path: Path, document: Any) -> None:
    """Readable by its owner alone: the status holds the embedded store's credentials."""
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def _record(path: Path, document: Any) -> None:
    """What nothing that runs depends on: where it cannot be written, on a full disk, it is logged."""
    try:
        write_atomically(path, document)
    except OSError as error:
        logger.warning("%s is out of date, it could not be written: %s", path, error)


def read(path: Path) -> Any:
    """The JSON document, or None where there is none (or half of one, from a full disk)."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_processes(state: Path, groups: Mapping[int, str]) -> None:
    _record(state / _PROCESSES, {str(pid): started for pid, started in groups.items()})


def read_processes(state: Path) -> dict[int, str]:
    """The process groups of the engine that ran here last, by id, with their start times."""
    return {int(pid): str(started) for pid, started in (read(state / _PROCESSES) or {}).items()}


def write_status(state: Path, status: Mapping[str, Any]) -> None:
    engine = {"pid": os.getpid(), "started": start_time(os.getpid())}
    _record(state / _STATUS, {**status, "engine": engine})


def read_status(state: Path) -> dict[str, Any] | None:
    """What the engine last wrote, with `running`: whether it lives. None where none ever ran.

    Of a dead engine no component is ready, whatever it wrote before.
    """
    status = read(state / _STATUS)
    if not isinstance(status, dict):
        return None
    engine = status.get("engine", {})
    started = start_time(int(engine.get("pid", 0)))
    running = started is not None and started == engine.get("started")
    if not running:
        status["components"] = [{**component, "ready": False} for component in status.get("components", [])]
        status["ready"] = False
    return status | {"running": running}


class Ports:
    """The loopback ports of this state folder: the same ones again at the next start, where they are free."""

    def __init__(self, state: Path) -> None:
        self._file = state / _PORTS
        self._known: dict[str, int] = read(self._file) or {}

    def listener(self, name: str, wanted: int = 0) -> socket.socket:
        """A listening socket for `name`. Raises SettingsError when the port `wanted` is in use."""
        opened = _listen(wanted) if wanted else self._reopened(name)
        if opened is None:
            raise SettingsError(f"expected port {wanted} of 127.0.0.1 to be free for {name}; choose another port")
        self._remember(name, opened.getsockname()[1])
        return opened

    def reserve(self, name: str, wanted: int = 0) -> int:
        """The port that a process of another's is told to listen on."""
        with self.listener(name, wanted) as found:
            return int(found.getsockname()[1])

    def _reopened(self, name: str) -> socket.socket | None:
        known = self._known.get(name)
        return (_listen(known) if known else None) or _listen(free_port())

    def _remember(self, name: str, port: int) -> None:
        if self._known.get(name) != port:
            self._known[name] = port
            write_atomically(self._file, self._known)


def free_port() -> int:
    """One that nobody listens on, for a process that will; the system gives it to no outgoing connection meanwhile."""
    above = _first_outgoing_port() - _LOWEST_PORT
    for _ in range(_TRIES if above > _TRIES else 0):
        port = _LOWEST_PORT + secrets.randbelow(above)
        if (probe := _listen(port)) is not None:
            probe.close()
            return port
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        return int(any_port.getsockname()[1])


def _first_outgoing_port() -> int:
    """From here on the system chooses ports of outgoing connections; Linux says where, others begin higher."""
    try:
        return int(_OUTGOING_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _listen(port: int) -> socket.socket | None:
    try:
        return listening_socket("127.0.0.1", port)
    except OSError:
        return None
