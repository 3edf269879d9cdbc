"""Writes of one transaction: versions and history, and deletion with finalizers, owners and namespaces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from whimbrel.local.api import metadata as meta
from whimbrel.local.api.faults import Forbidden, TooLarge, conflict, not_found
from whimbrel.local.api.kinds import EVENT, NAMESPACE, Kind, by_resource
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.rows import Row, Rows, encoded

Propagation = Literal["Background", "Foreground", "Orphan"]

_FOREGROUND = "foregroundDeletion"
_MAX_OBJECT_BYTES = 1_572_864  # what etcd takes
_MAX_EVENTS = 1_000  # then the oldest tenth goes; Kubernetes keeps each for an hour


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a delete expects the object to be."""

    uid: str | None = None
    resource_version: str | None = None

    def check(self, kind: Kind, stored: Object) -> None:
        for field, wanted in (("uid", self.uid), ("resourceVersion", self.resource_version)):
            seen = stored["metadata"][field]
            if wanted not in (None, seen):
                why = f"the {field} in the precondition ({wanted}) does not match the {field} in record ({seen})"
                raise conflict(kind, stored["metadata"]["name"], why)


class Transaction:
    """`wrote`: whether there is anything to tell."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.wrote = False

    def check_namespace(self, kind: Kind, namespace: str) -> None:
        """Raises NotFound or Forbidden where nothing can be created."""
        if not kind.namespaced:
            return
        document = self._rows.get(NAMESPACE.resource, "", namespace)
        if document is None:
            raise not_found(NAMESPACE, namespace)
        if meta.is_terminating(json.loads(document)):
            raise Forbidden(f"namespace {namespace} is being terminated: nothing new can be created in it")

    def add(self, kind: Kind, new: Object) -> Object:
        if kind is NAMESPACE:
            new["status"] = {"phase": "Active"}
        if kind is EVENT and self._rows.count(EVENT.resource) >= _MAX_EVENTS:
            self._drop_oldest_events()
        return self._write(kind, "ADDED", None, new)

    def replace(self, kind: Kind, stored: Object, new: Object) -> Object:
        """Write it, or remove it when that took its last finalizer."""
        if meta.is_terminating(new) and not new["metadata"].get("finalizers"):
            self._remove(kind, new)
            return new
        return self._write(kind, "MODIFIED", stored, new)

    def delete(self, kind: Kind, stored: Object, propagation: Propagation) -> Object | None:
        """The object while something keeps it, None when it is gone."""
        if kind is NAMESPACE:
            return self._delete_namespace(stored)
        if propagation == "Orphan":
            self._orphan(stored)
        metadata = stored["metadata"]
        finalizers = [*metadata.get("finalizers", [])]
        waits = propagation == "Foreground" and bool(self._rows.dependents(metadata["uid"]))
        if waits:
            if _FOREGROUND in finalizers:
                return stored  # it waits already; owners may go round in a circle
            finalizers.append(_FOREGROUND)
        if not finalizers:
            self._remove(kind, stored)
            return None
        marked = self._mark(kind, stored, finalizers)
        if waits:
            self._delete_dependents(metadata["uid"], "Foreground")
            left = self._rows.by_uid(metadata["uid"])
            return json.loads(left[1]) if left else None
        return marked

    def _mark(self, kind: Kind, stored: Object, finalizers: list[str]) -> Object:
        marked = {**stored, "metadata": {**stored["metadata"], "finalizers": finalizers}}
        if not meta.is_terminating(stored):
            marked["metadata"] |= {"deletionTimestamp": meta.now(), "deletionGracePeriodSeconds": 0}
        if not finalizers:
            marked["metadata"].pop("finalizers")
        return stored if meta.same(stored, marked) else self._write(kind, "MODIFIED", stored, marked)

    def _delete_namespace(self, stored: Object) -> Object | None:
        name = stored["metadata"]["name"]
        if name == "default":
            raise Forbidden('namespaces "default" is forbidden: this namespace may not be deleted')
        marked = self._mark(NAMESPACE, {**stored, "status": {"phase": "Terminating"}}, [])
        for _, document in self._rows.within(name):
            self._delete_if_there(json.loads(document)["metadata"]["uid"], "Background")
        self._end_namespace(name)
        return marked if self._rows.get(NAMESPACE.resource, "", name) else None

    def _remove(self, kind: Kind, stored: Object) -> None:
        """Gone, and with it what belongs to it; and what waited for that."""
        metadata = stored["metadata"]
        self._rows.remove(metadata["uid"])
        self._record(kind, "DELETED", stored, stored)
        self._delete_dependents(metadata["uid"], "Background")
        for owner in meta.owners(stored):
            self._release(owner)
        self._end_namespace(metadata.get("namespace", ""))

    def _delete_dependents(self, owner: str, propagation: Propagation) -> None:
        for _, document in self._rows.dependents(owner):
            dependent: Object = json.loads(document)
            others = [uid for uid in meta.owners(dependent) if uid != owner]
            if not any(self._rows.by_uid(uid) for uid in others):
                self._delete_if_there(dependent["metadata"]["uid"], propagation)

    def _delete_if_there(self, uid: str, propagation: Propagation) -> None:
        """As it is now: an earlier deletion of this transaction may have taken or changed it."""
        found = self._rows.by_uid(uid)
        if found is not None:
            self.delete(by_resource(found[0]), json.loads(found[1]), propagation)

    def _release(self, owner: str) -> None:
        """An owner whose deletion waited for its dependents goes with the last of them."""
        found = self._rows.by_uid(owner)
        if found is None or self._rows.dependents(owner):
            return
        kind, stored = by_resource(found[0]), json.loads(found[1])
        finalizers = stored["metadata"].get("finalizers", [])
        if meta.is_terminating(stored) and _FOREGROUND in finalizers:
            left = [each for each in finalizers if each != _FOREGROUND]
            self.replace(kind, stored, {**stored, "metadata": {**stored["metadata"], "finalizers": left}})

    def _orphan(self, stored: Object) -> None:
        owner = stored["metadata"]["uid"]
        for resource, document in self._rows.dependents(owner):
            dependent: Object = json.loads(document)
            references = [each for each in dependent["metadata"]["ownerReferences"] if each.get("uid") != owner]
            changed = {**dependent, "metadata": meta.tidy({**dependent["metadata"], "ownerReferences": references})}
            self._write(by_resource(resource), "MODIFIED", dependent, changed)

    def _end_namespace(self, name: str) -> None:
        document = self._rows.get(NAMESPACE.resource, "", name) if name else None
        if document and meta.is_terminating(json.loads(document)) and not self._rows.within(name):
            self._remove(NAMESPACE, json.loads(document))

    def _drop_oldest_events(self) -> None:
        events = [json.loads(document) for document in self._rows.page(EVENT.resource, None, ("", ""), -1)]
        events.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        for event in events[: _MAX_EVENTS // 10]:
            self._remove(EVENT, event)

    def _write(self, kind: Kind, change: str, stored: Object | None, new: Object) -> Object:
        written = self._record(kind, change, stored, new)
        self._rows.put(kind.resource, written, encoded(written), meta.owners(written))
        return written

    def _record(self, kind: Kind, change: str, stored: Object | None, new: Object) -> Object:
        """The object with its new version. Raises TooLarge."""
        version = self._rows.next_version()
        written = {**new, "metadata": {**new["metadata"], "resourceVersion": str(version)}}
        document = encoded(written)
        if len(document) > _MAX_OBJECT_BYTES:
            name = new["metadata"]["name"]
            raise TooLarge(
                f'{kind.resource} "{name}": expected {_MAX_OBJECT_BYTES} bytes at most, seen {len(document)}'
            )
        row = Row(version, change, kind.resource, document, encoded(stored) if stored else None)
        self._rows.record(row, written["metadata"].get("namespace", ""))
        self.wrote = True
        return written
