"""Which API server a command speaks to: a cluster, or the one-machine engine; and what it is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from whimbrel.core.errors import InputRefused
from whimbrel.kube.client import Client, client
from whimbrel.kube.kinds import INFERENCE_SERVICE, Kind, kind_named
from whimbrel.local.state import read_status

Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", help="default: KUBECONFIG, else the engine that runs here, else ~/.kube/config"),
]
Context = Annotated[str | None, typer.Option("--context", help="context in the kubeconfig")]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="default: that of the context")]
Resource = Annotated[str, typer.Argument(help="KIND/NAME, such as isvc/digits, or the name of an InferenceService")]

ENGINE_KUBECONFIG = "kubeconfig"

Result = TypeVar("Result")


@asynccontextmanager
async def cluster(kubeconfig: str | None, context: str | None, state: Path) -> AsyncIterator[Client]:
    """Of the kubeconfig that is named, by option or KUBECONFIG; else of a running engine; else kubectl's own."""
    async with client(kubeconfig or _engine(context, state), context) as connected:
        yield connected


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """The exit at the end of a coroutine; a group of failures is its first one."""
    try:
        return asyncio.run(main)
    except ExceptionGroup as failures:
        raise _first(failures) from None


def parse_resource(text: str) -> tuple[Kind, str]:
    """Raises InputRefused for a kind that is unknown or a name that is empty."""
    kind, slash, name = text.rpartition("/")
    if not name or (slash and not kind):
        raise InputRefused(f"expected KIND/NAME, such as isvc/digits, seen {text!r}")
    return (kind_named(kind) if slash else INFERENCE_SERVICE), name


def resource_name(kind: Kind, name: str) -> str:
    """As the commands print it, and take it: `inferenceservice.serving.kserve.io/digits`."""
    return f"{kind.title}/{name}"


async def gather(count: int, work: Callable[[int], Coroutine[Any, Any, Result]]) -> list[Result]:
    """At most 8 of `count` requests at once, in their order."""
    slots = asyncio.Semaphore(8)

    async def one(index: int) -> Result:
        async with slots:
            return await work(index)

    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(one(index)) for index in range(count)]
    return [task.result() for task in started]


def _engine(context: str | None, state: Path) -> str | None:
    if context is not None or os.environ.get("KUBECONFIG"):
        return None
    status = read_status(state)
    file = state / ENGINE_KUBECONFIG
    return str(file) if status and status.get("running") and file.is_file() else None


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
