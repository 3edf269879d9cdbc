"""What controllers said about an object: its Kubernetes events, in order of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import NotFound
from whimbrel.kube.answers import Forbidden
from whimbrel.kube.client import Client
from whimbrel.kube.kinds import EVENT


@dataclass(frozen=True, slots=True)
class Said:
    """`time` is when it was said last, `count` how often."""

    time: str
    type: str
    reason: str
    object: str
    message: str
    count: int

    @property
    def is_warning(self) -> bool:
        return self.type == "Warning"


async def events(cluster: Client, namespace: str, *, kind: str = "", name: str = "") -> tuple[Said, ...]:
    """About one object, or about everything in the namespace. Empty where the server keeps none or shows none."""
    wanted = {"involvedObject.kind": kind, "involvedObject.name": name}
    fields = ",".join(f"{field}={value}" for field, value in wanted.items() if value)
    try:
        listed = await cluster.list(EVENT, namespace, fields=fields)
    except (NotFound, Forbidden):
        return ()
    return tuple(sorted(map(read_event, listed.objects), key=lambda said: said.time))


def read_event(found: Mapping[str, Any]) -> Said:
    involved = found.get("involvedObject") or {}
    series = found.get("series") or {}
    time = series.get("lastObservedTime") or found.get("lastTimestamp") or found.get("eventTime")
    return Said(
        time=str(time or (found.get("metadata") or {}).get("creationTimestamp") or ""),
        type=str(found.get("type") or ""),
        reason=str(found.get("reason") or ""),
        object=f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}",
        message=" ".join(str(found.get("message") or "").split()),
        count=int(series.get("count") or found.get("count") or 1),
    )
