"""The stored objects as they were at one moment, and writes that change only what differs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.local.api.faults import AlreadyExists, ApiFault, Conflict, Forbidden, NotFound
from whimbrel.local.api.kinds import Kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage

logger = logging.getLogger(__name__)

_OF_METADATA = ("labels", "annotations", "ownerReferences")
# Somebody else wrote or deleted meanwhile: the next pass sees that and decides anew.
_OVERTAKEN = (NotFound, Conflict, AlreadyExists, Forbidden)


class World:
    """Each kind is listed once, when it is first asked for; what is written here is seen here."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lists: dict[str, dict[tuple[str, str], Object]] = {}

    def of(self, kind: Kind) -> list[Object]:
        return list(self._all(kind).values())

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._all(kind).get((namespace if kind.namespaced else "", name))

    def owned(self, kind: Kind, owner: Object) -> list[Object]:
        uid = owner["metadata"]["uid"]
        return [each for each in self.of(kind) if _owner(each) == uid]

    def ensure(self, kind: Kind, wanted: Object) -> Object | None:
        """Create it, or bring all but the status to what is wanted; None when it could not be, this time."""
        metadata = wanted["metadata"]
        found = self.find(kind, metadata.get("namespace", ""), metadata["name"])
        with _attempted():
            if found is None:
                return self._keep(kind, self._storage.create(kind, wanted))
            merged = _merged(found, wanted)
            return found if merged == found else self._keep(kind, self._storage.update(kind, merged))
        return None

    def annotate(self, kind: Kind, found: Object, annotations: Mapping[str, str]) -> None:
        """Whatever else of it is changed meanwhile stays changed: it is a user's."""
        if annotations.items() <= (found["metadata"].get("annotations") or {}).items():
            return

        def annotated(now: Object) -> Object:
            written = {**(now["metadata"].get("annotations") or {}), **annotations}
            return {**now, "metadata": {**now["metadata"], "annotations": written}}

        with _attempted():
            self._keep(kind, self._storage.modify(kind, *_key(found), annotated))

    def set_status(self, kind: Kind, found: Object, status: Mapping[str, Any]) -> None:
        if found.get("status") == status:
            return
        changed = {**found, "status": dict(status)}
        changed["metadata"] = {key: value for key, value in found["metadata"].items() if key != "resourceVersion"}
        with _attempted():
            self._keep(kind, self._storage.update(kind, changed, subresource="status"))

    def delete(self, kind: Kind, found: Object) -> None:
        metadata = found["metadata"]
        with _attempted():
            self._storage.delete(kind, metadata.get("namespace"), metadata["name"])
            self._all(kind).pop(_key(found), None)

    def _all(self, kind: Kind) -> dict[tuple[str, str], Object]:
        if kind.resource not in self._lists:
            self._lists[kind.resource] = {_key(each): each for each in self._storage.list(kind)}
        return self._lists[kind.resource]

    def _keep(self, kind: Kind, written: Object) -> Object:
        self._all(kind)[_key(written)] = written
        return written


@contextlib.contextmanager
def _attempted() -> Iterator[None]:
    """What the disk does not take is left for the next pass too: what runs goes on as it is."""
    try:
        yield
    except _OVERTAKEN:
        return
    except ApiFault as fault:
        if type(fault) is not ApiFault:  # a refusal of the object itself
            raise
        logger.warning("%s", fault)


def owner_reference(owner: Object) -> dict[str, Any]:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_leaving(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _key(found: Object) -> tuple[str, str]:
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def _owner(found: Object) -> str | None:
    references = found["metadata"].get("ownerReferences", [])
    return next((each.get("uid") for each in references if each.get("controller")), None)


def _merged(found: Object, wanted: Object) -> Object:
    merged = {**found, **{key: value for key, value in wanted.items() if key not in ("metadata", "status")}}
    metadata = {key: value for key, value in found["metadata"].items() if key != "resourceVersion"}
    metadata |= {key: wanted["metadata"][key] for key in _OF_METADATA if key in wanted["metadata"]}
    unchanged = {**metadata, "resourceVersion": found["metadata"]["resourceVersion"]} == found["metadata"]
    merged["metadata"] = found["metadata"] if unchanged else metadata
    return merged
