"""Events, as `kubectl get events` shows them: one for each thing that happened, counted when it repeats."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from whimbrel.local.api.faults import ApiFault
from whimbrel.local.api.kinds import EVENT
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage

_REMEMBERED = 1000
_SOURCE = "whimbrel"


class Recorder:
    """Blocking. What cannot be recorded is left: nothing depends on it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._written: OrderedDict[tuple[str, ...], Object] = OrderedDict()

    def record(self, happened: Sequence[tuple[Object, str, str, str]]) -> None:
        """Each an object, Normal or Warning, a reason and a message."""
        for about, type_, reason, message in happened:
            key = (about["metadata"]["uid"], type_, reason, message)
            try:
                self._written[key] = self._again(key) or self._storage.create(EVENT, _event(about, *key[1:]))
            except ApiFault:
                self._written.pop(key, None)
                continue
            self._written.move_to_end(key)
            while len(self._written) > _REMEMBERED:
                self._written.popitem(last=False)

    def _again(self, key: tuple[str, ...]) -> Object | None:
        before = self._written.get(key)
        if before is None:
            return None
        changed = {**before, "count": before["count"] + 1, "lastTimestamp": _now()}
        changed["metadata"] = {name: value for name, value in before["metadata"].items() if name != "resourceVersion"}
        return self._storage.update(EVENT, changed)


def _event(about: Object, type_: str, reason: str, message: str) -> dict[str, Any]:
    metadata, now = about["metadata"], _now()
    namespace = metadata.get("namespace", "default")
    suffix = hashlib.sha256(f"{metadata['uid']}{type_}{reason}{message}{now}".encode()).hexdigest()[:16]
    return {
        "metadata": {"name": f"{metadata['name'][:200]}.{suffix}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": namespace,
            "uid": metadata["uid"],
        },
        "type": type_,
        "reason": reason[:128],
        "message": message[:1024],
        "source": {"component": _SOURCE},
        "reportingComponent": _SOURCE,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
