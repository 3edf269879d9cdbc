"""The embedded store as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.processes import Running, answers, running
from testbed.stores import CREDENTIALS, Store
from whimbrel.local.state import free_port


@contextmanager
def embedded_store(folder: Path, **settings: str) -> Iterator[Store]:
    """`settings` in the command line's spelling without dashes: `max_object_bytes="2048"`."""
    port = free_port()
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    with running(
        "whimbrel.local.store",
        *("--folder", str(folder), "--http-port", str(port), *arguments),
        log=folder.parent / f"{folder.name}.log",
        **CREDENTIALS,
    ) as process:
        endpoint = f"http://127.0.0.1:{port}"
        wait_ready(process, endpoint)
        yield Store(endpoint, process)


def wait_ready(process: Running, endpoint: str) -> None:
    process.wait_until(lambda: answers(f"{endpoint}/.whimbrel/healthz"), "the store")


def kill_and_restart(store: Store) -> None:
    store.process.kill_and_restart()
    wait_ready(store.process, store.endpoint)
