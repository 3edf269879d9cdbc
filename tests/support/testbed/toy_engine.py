"""The engine's processes without its services, to be killed: `python -m testbed.toy_engine STATE`.

Runs one toy server with a child and prints its id when it is ready, then waits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from testbed.processes import environment
from whimbrel.local.processes import Place, Supervised
from whimbrel.local.wardship import Wardship
from whimbrel.local.workload import Probe, Workload

_PROBE = Probe("/healthz", period_seconds=0.2)
_SUPPORT = str(Path(__file__).parents[1])


def toy(*options: str, probe: Probe | None = _PROBE) -> Workload:
    return Workload(
        name="toy",
        kind="Toy",
        module="testbed.toy_server",
        arguments=("$(PORT)", *options),
        environment=environment(PYTHONPATH=_SUPPORT),
        probe=probe,
    )


@asynccontextmanager
async def place(state: Path, *, stop_seconds: float = 20) -> AsyncIterator[Place]:
    wardship = Wardship(state)
    await wardship.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as probes:
            yield Place(state, wardship, probes, stop_seconds, lambda: None)
    finally:
        await wardship.stop()


async def _main(state: Path) -> None:
    async with place(state) as here:
        process = Supervised(toy("--child"), here)
        process.start()
        await process.address(30)
        sys.stdout.write(f"{process.status()['pid']}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_main(folder))
