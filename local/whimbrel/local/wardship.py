"""The engine's end of the warden's pipe, and the record of what runs for the next engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from whimbrel.local.groups import end_all, signal_group, start_time
from whimbrel.local.state import read_processes, write_processes

_ATTACHED = Path(__file__).with_name("attached.py")
_GRACE_SECONDS = 5.0  # without an engine nothing reaches anything any more: what hangs on that is not waited for


class Wardship:
    """Whoever starts through it does not outlive the engine: the warden sees to it, else the next engine does."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._groups: dict[int, str] = {}
        self._pipe: int | None = None
        self._warden: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    def end_orphans(self) -> list[int]:
        """End what an engine that was killed left behind in this state folder; their ids. Blocking."""
        ended = end_all(read_processes(self._state), _GRACE_SECONDS)
        write_processes(self._state, {})
        return ended

    async def start(self) -> None:
        await self._start_warden()
        self._watch = asyncio.create_task(self._keep_warden(), name="warden")

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._close_pipe()
        if self._warden is not None:
            await self._warden.wait()

    @property
    def descriptor(self) -> int:
        """What a process inherits to tell the warden of itself."""
        if self._pipe is None:
            raise RuntimeError("the warden is not started")
        return self._pipe

    def command(self, command: list[str]) -> list[str]:
        """`command`, started so that the warden knows of it before it runs."""
        return [sys.executable, "-I", "-S", str(_ATTACHED), str(self.descriptor), *command]

    def began(self, pid: int) -> None:
        if started := start_time(pid):
            self._groups[pid] = started
            write_processes(self._state, self._groups)

    def ended(self, pid: int) -> None:
        self._groups.pop(pid, None)
        write_processes(self._state, self._groups)
        self._tell(f"-{pid}")

    async def run(self, command: list[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
        """A command to its end: its status, and what it wrote to stderr. Raises TimeoutError when it takes longer."""
        process = await asyncio.create_subprocess_exec(
            *self.command(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            pass_fds=(self.descriptor,),
        )
        try:
            self.began(process.pid)
            async with asyncio.timeout(seconds):
                _, said = await process.communicate()
        finally:
            signal_group(process.pid, signal.SIGKILL)  # and what it left behind
            status = await process.wait()
            self.ended(process.pid)
        return status, said.decode(errors="replace")

    async def _start_warden(self) -> None:
        reading, self._pipe = os.pipe()
        try:
            self._warden = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "whimbrel.local.warden", str(_GRACE_SECONDS)),
                stdin=reading,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)
        for pid in self._groups:
            self._tell(f"+{pid}")

    async def _keep_warden(self) -> None:
        """A warden that was killed is replaced; what runs is told to the next one."""
        while self._warden is not None:
            await self._warden.wait()
            self._close_pipe()
            await self._start_warden()

    def _tell(self, line: str) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, f"{line}\n".encode())
            except BrokenPipeError:
                return  # it was killed; the next one is told of what still runs

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
