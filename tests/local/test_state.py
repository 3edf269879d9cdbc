"""The state folder: one engine at a time, the same ports again, a status that tells a dead engine from a live one."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from whimbrel.core.errors import SettingsError
from whimbrel.local.groups import start_time
from whimbrel.local.state import Ports, free_port, locked, read_status, write_atomically, write_status


def test_a_state_folder_is_one_engines(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(SettingsError, match="choose another with --state"), locked(tmp_path):
        pass

    with locked(tmp_path):  # it is free again
        assert (tmp_path / "engine.lock").exists()


def test_ports_are_the_same_again(tmp_path: Path) -> None:
    first = {name: Ports(tmp_path).reserve(name) for name in ("s3", "gateway")}

    assert {name: Ports(tmp_path).reserve(name) for name in first} == first
    assert len(set(first.values())) == 2


def test_a_port_that_is_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    first = Ports(tmp_path).reserve("s3")

    with socket.create_server(("127.0.0.1", first)):
        assert Ports(tmp_path).reserve("s3") != first


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"expected port {taken} of 127.0.0.1 to be free for s3"):
            Ports(tmp_path).reserve("s3", taken)


def test_a_folder_without_an_engine_has_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text('{"half')
    assert read_status(tmp_path) is None


def test_the_status_of_a_live_engine(tmp_path: Path) -> None:
    write_status(tmp_path, {"ready": True, "components": [{"name": "s3", "ready": True}]})

    status = read_status(tmp_path)

    assert status is not None
    assert (status["running"], status["ready"], status["components"][0]["ready"]) == (True, True, True)


def test_nothing_of_a_dead_engine_is_ready(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    engine = {"pid": dead.pid, "started": start_time(dead.pid)}
    dead.wait(20)
    write_atomically(
        tmp_path / "status.json", {"ready": True, "components": [{"name": "s3", "ready": True}], "engine": engine}
    )

    status = read_status(tmp_path)

    assert status is not None
    assert (status["running"], status["ready"], status["components"][0]["ready"]) == (False, False, False)


def test_a_free_port_is_none_that_an_outgoing_connection_may_take_first() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if first < 16_000:
        pytest.skip(f"outgoing connections have nearly all ports here: {first} to {last}")
    ports = {free_port() for _ in range(20)}

    assert len(ports) > 1
    assert all(1024 <= port < first for port in ports)
