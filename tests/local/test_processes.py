"""A workload's process is started, watched, started again and ended, with real processes."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from testbed.processes import environment, running, wait_for
from testbed.toy_engine import place, toy
from whimbrel.local.groups import end_all, is_ours, start_time
from whimbrel.local.processes import LONGEST_LOG_BYTES, Supervised
from whimbrel.local.state import read_processes, write_status
from whimbrel.local.wardship import Wardship
from whimbrel.local.workload import Probe, expand

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    await asyncio.to_thread(wait_for, condition, what, seconds)


def child_of(state: Path) -> int:
    log = state / "logs" / "toy.log"
    return int(wait_for(lambda: re.findall(r"child (\d+)", log.read_text()), "the child's id")[0])


async def test_it_is_ready_when_its_probe_answers_and_ends_with_its_children(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = Supervised(toy("--child"), here)
        process.start()

        address = await process.address(30)

        assert address is not None
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"http://127.0.0.1:{address.http_port}/", content=b"hello")
        assert answer.content == b"hello"
        pid, child = process.status()["pid"], await asyncio.to_thread(child_of, tmp_path)
        assert list(read_processes(tmp_path)) == [pid]
        await process.stop()
        assert start_time(pid) is None
        assert start_time(child) is None
        assert read_processes(tmp_path) == {}
        assert not process.ready


async def test_a_command_gets_its_port_and_its_arguments(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "testbed.toy_server", "$(PORT)")
    async with place(tmp_path) as here:
        process = Supervised(replace(toy(), module="", command=command, arguments=("--child",)), here)
        process.start()

        assert await process.address(30) is not None
        assert await asyncio.to_thread(child_of, tmp_path)
        await process.stop()


async def test_a_command_that_cannot_be_started_is_tried_again_and_says_why(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = Supervised(replace(toy(), environment={"NAME": "a\0b"}), here)
        process.start()

        await until(lambda: process.restarts > 1, "another attempt")

        assert process.last_exit == "could not be started: embedded null byte"
        await process.stop()


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = Supervised(toy(), here)
        process.start()
        await process.address(30)
        first = process.status()["pid"]

        os.kill(first, signal.SIGKILL)
        await until(lambda: process.restarts == 1, "the end to be noticed")
        assert await process.address(30) is not None

        status = process.status()
        assert status["pid"] != first
        assert (status["restarts"], status["last_exit"]) == (1, "was ended by SIGKILL")
        await process.stop()


async def test_a_process_that_refuses_its_settings_says_why(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = Supervised(toy("--refuse", "setting WHIMBREL_X: missing; set it"), here)
        process.start()

        await until(lambda: process.refused_to_start, "the refusal")

        assert process.last_exit == "ended with status 2: setting WHIMBREL_X: missing; set it"
        await process.stop()


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with place(tmp_path, stop_seconds=0.5) as here:
        process = Supervised(toy("--deaf"), here)
        process.start()
        await process.address(30)
        pid = process.status()["pid"]

        await process.stop()

        assert start_time(pid) is None


async def test_who_loses_patience_while_it_stops_has_it_killed(tmp_path: Path) -> None:
    async with place(tmp_path, stop_seconds=600) as here:
        process = Supervised(toy("--deaf"), here)
        process.start()
        await process.address(30)
        pid = process.status()["pid"]
        stopping = asyncio.create_task(process.stop())
        await until(lambda: not process.ready, "the stop to begin")

        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping

        assert start_time(pid) is None


async def test_a_process_without_a_probe_is_ready_when_it_runs(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        process = Supervised(toy(probe=None), here)
        process.start()

        assert await process.address(30) is not None
        await process.stop()


@pytest.mark.parametrize("probe", [None, Probe("", period_seconds=1)])
async def test_the_pause_before_each_start_grows_while_it_fails(tmp_path: Path, probe: Probe | None) -> None:
    """A pause is a lower bound, so that a slow machine changes nothing."""
    note = "import time; print(time.monotonic(), flush=True)"
    log = tmp_path / "logs" / "toy.log"
    async with place(tmp_path) as here:
        process = Supervised(replace(toy(probe=probe), command=(sys.executable, "-c", note)), here)
        process.start()
        await until(lambda: log.exists() and len(log.read_text().splitlines()) >= 4, "four starts")
        await process.stop()

    started = [float(line) for line in log.read_text().splitlines()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert all(pause >= least for pause, least in zip(pauses, (0.2, 0.4, 0.8), strict=False))


async def test_each_run_has_its_own_part_of_the_log(tmp_path: Path) -> None:
    note = "import time; print('run', time.monotonic_ns(), flush=True)"
    async with place(tmp_path) as here:
        process = Supervised(replace(toy(probe=None), command=(sys.executable, "-c", note)), here)
        process.start()
        await until(lambda: process.restarts >= 2, "a second run")
        await process.stop()

    lines = (tmp_path / "logs" / "toy.log").read_bytes().splitlines(keepends=True)
    before = process.log(previous=True)
    assert before is not None and before.end is not None
    assert before.path.read_bytes()[before.start : before.end] in lines[:-1]
    now = process.log(previous=False)
    assert now is not None and now.start == before.end


async def test_what_cannot_be_recorded_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "processes.json.new").mkdir()  # as good as a full disk
    (tmp_path / "status.json.new").mkdir()
    async with place(tmp_path) as here:
        process = Supervised(toy(), replace(here, changed=lambda: write_status(tmp_path, {})))
        process.start()

        assert await process.address(30) is not None
        os.kill(process.status()["pid"], signal.SIGKILL)
        await until(lambda: process.restarts == 1, "the end to be noticed")
        assert await process.address(30) is not None

        await process.stop()
        assert process.status()["restarts"] == 1


async def test_a_change_that_cannot_be_told_ends_no_watch(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with place(tmp_path) as here:
        process = Supervised(toy(), replace(here, changed=fail))
        process.start()

        assert await process.address(30) is not None
        os.kill(process.status()["pid"], signal.SIGKILL)
        await until(lambda: process.restarts == 1, "the end to be noticed")
        assert await process.address(30) is not None
        await process.stop()


class Forgetful(Wardship):
    """Cannot take note of a process."""

    pids: list[int]

    def began(self, pid: int) -> None:
        self.pids.append(pid)
        raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_process_that_cannot_be_watched_is_not_left_running(tmp_path: Path) -> None:
    wardship = Forgetful(tmp_path)
    wardship.pids = []
    async with place(tmp_path) as here:
        await wardship.start()
        process = Supervised(toy(), replace(here, wardship=wardship))
        process.start()

        await until(lambda: process.restarts == 2, "a second try")
        await process.stop()

        assert [pid for pid in wardship.pids if start_time(pid)] == []
        assert process.last_exit == "could not be started: [Errno 28] No space left on device"
        await wardship.stop()


async def test_a_log_that_has_grown_long_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "toy.log"
    log.parent.mkdir()
    log.touch()
    os.truncate(log, LONGEST_LOG_BYTES + 1)
    async with place(tmp_path) as here:
        process = Supervised(toy(), here)
        process.start()
        await process.address(30)
        await process.stop()

    assert log.stat().st_size < 10_000
    assert log.with_name("toy.log.1").stat().st_size == LONGEST_LOG_BYTES + 1


def test_nothing_outlives_a_killed_engine(tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "engine.log"
    with running(
        "testbed.toy_engine", str(state), log=log, PYTHONPATH=str(Path(__file__).parents[1] / "support")
    ) as engine:
        engine.wait_until(lambda: engine.output().strip(), "the toy")
        pid, child = int(engine.output()), child_of(state)
        assert start_time(pid)

        engine.signal(signal.SIGKILL)

        wait_for(lambda: start_time(pid) is None and start_time(child) is None, "the end of what it had started")


async def test_a_command_that_is_run_to_its_end_is_known_to_the_warden(tmp_path: Path) -> None:
    program = "import sys; print(sys.argv[1], file=sys.stderr); sys.exit(3)"
    waits = "import time; time.sleep(600)"
    async with place(tmp_path) as here:
        ended = await here.wardship.run([sys.executable, "-c", program, "why"], environment(), 60)
        waiting = asyncio.create_task(here.wardship.run([sys.executable, "-c", waits], environment(), 60))
        await until(lambda: bool(read_processes(tmp_path)), "the record of it")
        [pid] = read_processes(tmp_path)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    assert ended == (3, "why\n")
    assert start_time(pid) is None
    assert read_processes(tmp_path) == {}


def test_a_killed_warden_is_replaced(tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "engine.log"
    with running(
        "testbed.toy_engine", str(state), log=log, PYTHONPATH=str(Path(__file__).parents[1] / "support")
    ) as engine:
        engine.wait_until(lambda: engine.output().strip(), "the toy")
        pid, first = int(engine.output()), warden_of(engine.process.pid)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: warden_of(engine.process.pid) not in (0, first), "another warden")

        engine.signal(signal.SIGKILL)

        wait_for(lambda: start_time(pid) is None, "the end of what it had started")


def test_the_next_engine_ends_what_no_warden_did(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        Wardship(tmp_path).began(left.pid)

        assert Wardship(tmp_path).end_orphans() == [left.pid]

        assert left.wait(10) == -signal.SIGTERM
        assert read_processes(tmp_path) == {}
    finally:
        left.kill()


def test_a_process_that_only_has_the_same_id_is_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        assert is_ours(other.pid, str(start_time(other.pid)))
        assert end_all({other.pid: "another start time"}, grace_seconds=0) == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(10)


def test_arguments_are_expanded_as_kubernetes_does() -> None:
    assert expand("--port=$(PORT) $(OTHER) $$(PORT)", {"PORT": "1"}) == "--port=1 $(OTHER) $(PORT)"


def warden_of(engine: int) -> int:
    """The id of the warden among the children of a process; 0 when there is none."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(engine)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return next((int(line.split()[0]) for line in listed.stdout.splitlines() if "whimbrel.local.warden" in line), 0)
