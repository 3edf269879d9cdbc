"""The body of a watch: one JSON document a line, for what is there, what changes, and bookmarks in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic

from whimbrel.local.api import tables
from whimbrel.local.api.faults import ApiFault
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.options import ListOptions
from whimbrel.local.api.paths import Target
from whimbrel.local.api.storage import Storage
from whimbrel.local.api.tables import Form
from whimbrel.local.api.watching import Watch, meaning


class WatchStream:
    """One client's watch. Raises Gone before the first line, where its start is no longer remembered."""

    def __init__(
        self, storage: Storage, target: Target, form: Form, options: ListOptions, *, seconds: float, bookmarks: float
    ) -> None:
        self._storage, self._target, self._form, self._options = storage, target, form, options
        self._seconds, self._bookmark_seconds = options.timeout_seconds or seconds, bookmarks
        self._described = False
        self.place = Watch(storage, target.kind, target.namespace, options.version or 0)
        if options.version is not None:
            storage.changes(target.kind, target.namespace, options.version, limit=1)

    async def lines(self) -> AsyncIterator[bytes]:
        """Until the client's time is up, the history is lost to it, or the server stops."""
        try:
            with self.place:
                async for line in self._initial():
                    yield line
                async for line in self._changes():
                    yield line
        except ApiFault as fault:
            yield _line("ERROR", fault.body())

    async def _initial(self) -> AsyncIterator[bytes]:
        if self._options.version is not None:
            return
        target = self._target
        page = await asyncio.to_thread(self._storage.page, target.kind, target.namespace, self._options.selector)
        self.place.version = page.version
        for found in page.items:
            yield self._event("ADDED", found)
        if self._options.initial_events:
            yield self._bookmark({"k8s.io/initial-events-end": "true"})

    async def _changes(self) -> AsyncIterator[bytes]:
        end = monotonic() + self._seconds
        while (left := end - monotonic()) > 0:
            changes = await self.place.next(min(left, self._bookmark_seconds))
            if changes is None:
                return
            for change in changes:
                event = meaning(change, self._options.selector)
                if event is not None:
                    yield self._event(*event)
            if not changes and self._options.bookmarks:
                yield self._bookmark({})

    def _event(self, type_: str, found: Object) -> bytes:
        shown = tables.one(self._target.kind, self._form, found, with_columns=not self._described)
        self._described = True
        return _line(type_, shown)

    def _bookmark(self, annotations: dict[str, str]) -> bytes:
        kind = self._target.kind
        metadata: Object = {"resourceVersion": str(self.place.version)}
        if annotations:
            metadata["annotations"] = annotations
        return _line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})


def _line(type_: str, found: Object) -> bytes:
    return json.dumps({"type": type_, "object": found}, separators=(",", ":")).encode() + b"\n"
