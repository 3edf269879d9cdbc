"""Follows a kind's changes for as long as one likes: lists, watches, goes on after a cut, lists again after a 410."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from whimbrel.core.errors import Unavailable
from whimbrel.kube.answers import Gone, error_of
from whimbrel.kube.client import Client, Object
from whimbrel.kube.kinds import Kind

# The server ends a watch after this time; the read waits a little longer, so a dead connection is noticed too.
WATCH_SECONDS = 60
_SILENCE_SECONDS = WATCH_SECONDS + 15.0
_PATIENCE_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_SHORT_SECONDS = 1.0


class Change(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Changed:
    """`object` is how it is now; of a deleted one, how it was last seen."""

    change: Change
    object: Object


class _Known:
    """The objects as they were last seen, by uid: an object made anew under its old name is another one."""

    def __init__(self, seen: Iterable[Object]) -> None:
        self._objects: dict[str, Object] = {_identity(each): each for each in seen}

    def listed(self, objects: Iterable[Object]) -> list[Changed]:
        """What changed between what was known and a new list."""
        found = {_identity(each): each for each in objects}
        gone = [Changed(Change.DELETED, each) for uid, each in self._objects.items() if uid not in found]
        changed = [change for each in found.values() if (change := self._seen(each)) is not None]
        self._objects = found
        return gone + changed

    def told(self, change: Change, found: Object) -> Changed | None:
        """One event of a watch; None where it is known already."""
        if change is not Change.DELETED:
            return self._seen(found)
        self._objects.pop(_identity(found), None)
        return Changed(change, found)

    def _seen(self, found: Object) -> Changed | None:
        before = self._objects.get(_identity(found))
        self._objects[_identity(found)] = found
        if before is None:
            return Changed(Change.ADDED, found)
        if _version(before) == _version(found):
            return None
        return Changed(Change.MODIFIED, found)


async def changes(
    client: Client,
    kind: Kind,
    namespace: str | None = None,
    *,
    name: str = "",
    labels: str = "",
    seen: Iterable[Object] = (),
    patience_seconds: float = _PATIENCE_SECONDS,
) -> AsyncGenerator[Changed, None]:
    """Every object that there is as ADDED, then every change, each once, without a gap, until the caller leaves.

    `seen` are those that the caller has read already: of them only what changed since.

    Raises Unavailable when the server does not answer for `patience_seconds`, Forbidden and NotFound at once.
    """
    fields = f"metadata.name={name}" if name else ""
    known, version, rounds = _Known(seen), "", _Rounds(patience_seconds)
    while True:
        rounds.begin()
        try:
            if not version:
                listed = await client.list(kind, namespace, labels=labels, fields=fields)
                rounds.answered()
                version = listed.resource_version
                for changed in known.listed(listed.objects):
                    yield changed
            events = _events(client, kind, namespace, version, rounds.answered, labels=labels, fields=fields)
            async with aclosing(events):
                async for document in events:
                    version = _version(document["object"]) or version
                    if document["type"] != "BOOKMARK" and (
                        changed_now := known.told(Change(document["type"]), document["object"])
                    ):
                        yield changed_now
        except Gone:
            rounds.answered()
            version = ""
        except Unavailable:
            if rounds.failed_for_too_long():
                raise
        await rounds.pause()


class _Rounds:
    """Since when the server does not answer, and pauses between watches that end at once: never a tight loop."""

    def __init__(self, patience_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience = patience_seconds
        self._begun = self._loop.time()
        self._failing_since: float | None = None
        self._short = 0

    def begin(self) -> None:
        self._begun = self._loop.time()

    def answered(self) -> None:
        self._failing_since = None

    def failed_for_too_long(self) -> bool:
        """One more failure; patience counts from the first one in a row, however long it was quiet before."""
        now = self._loop.time()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since > self._patience

    async def pause(self) -> None:
        self._short = self._short + 1 if self._loop.time() - self._begun < _SHORT_SECONDS else 0
        if self._short:
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._short, 10))
            # Not all clients of a server that was away come back at once.
            await asyncio.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311


async def _events(
    client: Client,
    kind: Kind,
    namespace: str | None,
    version: str,
    answered: Callable[[], None],
    *,
    labels: str,
    fields: str,
) -> AsyncGenerator[dict[str, Any], None]:
    """One watch, until the server ends it. Raises Gone for an ERROR event of that meaning."""
    doing = f"expected to watch {kind.plural}"
    wanted = {"labelSelector": labels, "fieldSelector": fields}
    parameters = {name: value for name, value in wanted.items() if value} | {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    within = namespace if kind.namespaced else None
    async with client.connection.lines(
        kind, kind.plural, within, doing=doing, parameters=parameters, silence_seconds=_SILENCE_SECONDS
    ) as lines:
        answered()
        async for line in lines:
            document = _read(line, doing)
            if document["type"] == "ERROR":
                status = document["object"]
                raise error_of(status.get("code"), status, doing)
            yield document


def _read(line: str, doing: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        document = None  # the connection was cut in the middle of a line
    if not isinstance(document, dict) or not isinstance(document.get("object"), dict) or "type" not in document:
        raise Unavailable(f"{doing}; seen {line!r:.200}")
    return document


def _identity(found: Object) -> str:
    metadata = found.get("metadata") or {}
    return str(metadata.get("uid") or f"{metadata.get('namespace')}/{metadata.get('name')}")


def _version(found: Object) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion") or "")
