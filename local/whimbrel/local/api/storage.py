"""The objects of the API, kept in sqlite: versions, conflicts, deletion by Kubernetes' rules, and what changed since.

Thread-safe, and blocking: an event loop calls it on a thread. Objects go in and come out as values of their own.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whimbrel.local.api import metadata as meta
from whimbrel.local.api.deletion import Preconditions, Propagation, Transaction
from whimbrel.local.api.faults import (
    AlreadyExists,
    ApiFault,
    BadRequest,
    Forbidden,
    Gone,
    already_exists,
    conflict,
    not_found,
)
from whimbrel.local.api.kinds import NAMESPACE, Kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.rows import Row, Rows
from whimbrel.local.api.selectors import Selector

__all__ = ["Change", "Changes", "Object", "Page", "Preconditions", "Storage"]

_HISTORY_ROWS = 10_000
_HISTORY_BYTES = 64 << 20
_MAX_OBJECTS = 20_000
_START = ("", "")


@dataclass(frozen=True, slots=True)
class Change:
    """`type` is ADDED, MODIFIED or DELETED; `previous` the object as it was before."""

    type: str
    resource: str
    object: Object
    previous: Object | None
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list: `after` is where the next page starts, None at the end."""

    items: tuple[Object, ...]
    version: int
    after: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes in order; `version` is where to read on, also where nothing changed."""

    items: tuple[Change, ...]
    version: int


class Storage:
    """`path`: the sqlite file, which one process at a time has open."""

    def __init__(
        self,
        path: Path,
        *,
        history_rows: int = _HISTORY_ROWS,
        history_bytes: int = _HISTORY_BYTES,
        max_objects: int = _MAX_OBJECTS,
    ) -> None:
        self._rows = Rows(path, history_rows=history_rows, history_bytes=history_bytes)
        self._max_objects = max_objects
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        with suppress(AlreadyExists):
            self.create(NAMESPACE, {"metadata": {"name": "default"}})

    def close(self) -> None:
        with self._lock:
            self._rows.close()

    @property
    def version(self) -> int:
        """The resourceVersion of the latest change."""
        with self._lock:
            return self._rows.counter("version")

    def create(self, kind: Kind, given: Object, *, dry_run: bool = False) -> Object:
        """Raises AlreadyExists, Invalid, NotFound (its namespace), Forbidden (full, or the namespace ends)."""
        new = meta.created(kind, given)
        name, namespace = new["metadata"]["name"], new["metadata"].get("namespace", "")
        with self._transaction(keep=not dry_run) as transaction:
            if self._rows.get(kind.resource, namespace, name) is not None:
                raise already_exists(kind, name)
            if self._rows.count() >= self._max_objects:
                raise Forbidden(f"expected at most {self._max_objects} objects; delete some")
            transaction.check_namespace(kind, namespace)
            return transaction.add(kind, new)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """Raises NotFound."""
        with self._lock:
            document = self._rows.get(kind.resource, namespace or "", name)
        if document is None:
            raise not_found(kind, name)
        found: Object = json.loads(document)
        return found

    def list(self, kind: Kind, namespace: str | None = None, selector: Selector | None = None) -> list[Object]:
        """All of a kind, of one namespace or of all, in the order of namespace and name."""
        return [*self.page(kind, namespace, selector).items]

    def page(
        self,
        kind: Kind,
        namespace: str | None = None,
        selector: Selector | None = None,
        *,
        limit: int = 0,
        after: tuple[str, str] = _START,
    ) -> Page:
        """The next `limit` objects after the one at `after`; 0: all of them."""
        items: list[Object] = []
        with self._lock:
            version = self._rows.counter("version")
            while True:
                rows = self._rows.page(kind.resource, namespace, after, limit + 1 if limit else -1)
                found: list[Object] = [json.loads(row) for row in (rows[:limit] if limit else rows)]
                items += [each for each in found if not selector or selector.matches(each)]
                if found:
                    after = (found[-1]["metadata"].get("namespace", ""), found[-1]["metadata"]["name"])
                if not limit or len(rows) <= limit:
                    return Page(tuple(items), version, None)
                if len(items) >= limit:
                    return Page(tuple(items), version, after)

    def update(self, kind: Kind, given: Object, *, subresource: str | None = None, dry_run: bool = False) -> Object:
        """Replace an object, or its status. Raises NotFound, Conflict (a stale resourceVersion), Invalid."""
        metadata = given.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            raise BadRequest("expected an object with metadata.name")
        namespace = (metadata.get("namespace") or "default") if kind.namespaced else ""
        return self.modify(kind, namespace, metadata["name"], lambda _: given, subresource=subresource, dry_run=dry_run)

    def modify(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        change: Callable[[Object], Object],
        *,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Replace an object by what `change` makes of a copy of it, with nobody in between. Raises as `update` does.

        `change` runs under the lock of all objects: it only computes. A resourceVersion that it leaves alone is the
        right one, so nothing conflicts.
        """
        with self._transaction(keep=not dry_run) as transaction:
            document = self._rows.get(kind.resource, namespace or "", name)
            if document is None:
                raise not_found(kind, name)
            stored: Object = json.loads(document)
            given = change(json.loads(document))
            _check_version(kind, stored, given)
            new = meta.updated(kind, stored, given, subresource)
            if meta.same(stored, new):
                return stored
            return transaction.replace(kind, stored, new)

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        preconditions: Preconditions | None = None,
        propagation: Propagation = "Background",
        dry_run: bool = False,
    ) -> Object | None:
        """The object while finalizers keep it, None when it is gone. Raises NotFound, Conflict (preconditions)."""
        with self._transaction(keep=not dry_run) as transaction:
            document = self._rows.get(kind.resource, namespace or "", name)
            if document is None:
                raise not_found(kind, name)
            stored: Object = json.loads(document)
            if preconditions is not None:
                preconditions.check(kind, stored)
            return transaction.delete(kind, stored, propagation)

    def changes(self, kind: Kind | None, namespace: str | None, after: int, *, limit: int = 500) -> Changes:
        """What changed after a resourceVersion, oldest first. Raises Gone when that is no longer remembered."""
        with self._lock:
            floor, version = self._rows.counter("floor"), self._rows.counter("version")
            if not floor <= after <= version:
                raise Gone(f"too old resource version: {after} ({floor} to {version} are remembered); list again")
            rows = self._rows.history(kind.resource if kind else None, namespace, after, limit)
        return Changes(tuple(_change(row) for row in rows), rows[-1].version if len(rows) == limit else version)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`listener` is called, on the thread that wrote, after each change; it only wakes. Returns how to end that."""
        with self._lock:
            self._listeners.append(listener)

        def forget() -> None:
            with self._lock, suppress(ValueError):
                self._listeners.remove(listener)

        return forget

    @contextmanager
    def _transaction(self, *, keep: bool) -> Iterator[Transaction]:
        with self._lock:
            try:
                with self._rows.transaction(keep=keep):
                    transaction = Transaction(self._rows)
                    yield transaction
            except sqlite3.Error as error:
                raise ApiFault(f"the object cannot be written: {error}; is the disk full?") from None
            listeners = [*self._listeners] if keep and transaction.wrote else []
        for listener in listeners:
            with suppress(RuntimeError):  # its event loop has just ended
                listener()


def _check_version(kind: Kind, stored: Object, given: Object) -> None:
    wanted = (given.get("metadata") or {}).get("resourceVersion")
    if wanted not in (None, "", stored["metadata"]["resourceVersion"]):
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise conflict(kind, stored["metadata"]["name"], why)


def _change(row: Row) -> Change:
    previous = json.loads(row.previous) if row.previous else None
    return Change(row.type, row.resource, json.loads(row.document), previous, row.version)
