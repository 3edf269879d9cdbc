"""The logs of the pods behind a service, a revision or a source: what is there, or all that comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeAlias

from whimbrel.core.errors import NotFound
from whimbrel.kube.client import Client
from whimbrel.kube.kinds import POD
from whimbrel.kube.pods import Instance, instance
from whimbrel.kube.watching import Change, changes

_WAITING_LINES = 1000  # read but not yet taken by the caller; above it the pods' streams wait
_SILENCE_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Line:
    pod: str
    text: str


_Queue: TypeAlias = "asyncio.Queue[Line | Exception]"


async def logs(
    client: Client, namespace: str, labels: str, *, tail: int | None = None, follow: bool = False
) -> AsyncGenerator[Line, None]:
    """Of every pod with these labels, at most `tail` lines of what it said until now.

    With `follow` also what it says from now on, and what pods say that come later, until the caller leaves; lines
    of different pods come as they are read. Without, one pod after the other, and NotFound where there is none.
    """
    if follow:
        async for line in _followed(client, namespace, labels, tail):
            yield line
        return
    pods = (await client.list(POD, namespace, labels=labels)).objects
    if not pods:
        raise NotFound(f"expected pods with {labels}, seen none; without requests a service is scaled to zero")
    for found in map(instance, pods):
        if found is not None:
            async for line in _lines(client, namespace, found, tail, follow=False):
                yield line


async def last_line(client: Client, namespace: str, found: Instance) -> str:
    """Empty where it has said nothing yet."""
    said = ""
    async for line in _lines(client, namespace, found, 1, follow=False):
        said = line.text
    return said


async def _lines(
    client: Client, namespace: str, found: Instance, tail: int | None, *, follow: bool
) -> AsyncGenerator[Line, None]:
    parameters = {"container": found.container, "follow": str(follow).lower()}
    parameters |= {} if tail is None else {"tailLines": str(tail)}
    path = f"{POD.plural}/{found.pod}/log"
    doing = f"expected the log of pod {found.pod!r}"
    async with client.connection.lines(
        POD, path, namespace, doing=doing, parameters=parameters, silence_seconds=_SILENCE_SECONDS
    ) as lines:
        async for text in lines:
            yield Line(found.pod, text)


async def _followed(client: Client, namespace: str, labels: str, tail: int | None) -> AsyncGenerator[Line, None]:
    """The first failure ends all of it."""
    waiting: _Queue = asyncio.Queue(_WAITING_LINES)
    looking = asyncio.create_task(_look(client, namespace, labels, tail, waiting))
    try:
        while True:
            line = await waiting.get()
            if isinstance(line, Exception):
                raise line
            yield line
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look(client: Client, namespace: str, labels: str, tail: int | None, waiting: _Queue) -> None:
    """Reads the log of each container once, from its start on; a restarted one is another."""
    started: set[Instance] = set()
    try:
        async with (
            asyncio.TaskGroup() as readers,
            aclosing(changes(client, POD, namespace, labels=labels)) as changed,
        ):
            async for each in changed:
                found = instance(each.object)
                if each.change is Change.DELETED:
                    uid = each.object["metadata"].get("uid")
                    started = {other for other in started if other.uid != uid}
                elif found is not None and found not in started:
                    is_restarted = any(other.uid == found.uid for other in started)
                    started.add(found)
                    lines = _lines(client, namespace, found, None if is_restarted else tail, follow=True)
                    readers.create_task(_put(lines, waiting))
    except ExceptionGroup as failures:
        await waiting.put(_first(failures))


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


async def _put(lines: AsyncGenerator[Line, None], waiting: _Queue) -> None:
    with suppress(NotFound):  # the pod went before its log was read
        async with aclosing(lines):
            async for line in lines:
                await waiting.put(line)
