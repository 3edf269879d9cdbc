"""The cells of `kubectl get`: JSONPaths as CRDs use them, and the few columns that Kubernetes computes; pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from whimbrel.local.api.kinds import Column
from whimbrel.local.api.metadata import Object

Cell = str | int | bool | None

_STEP = re.compile(
    r"\.(?P<field>(?:\\.|[^.\[\\])+)"
    r"|\['(?P<quoted>(?:\\.|[^'\\])+)'\]"
    r"|\[(?P<all>\*)\]"
    r"|\[\?\(@\.(?P<key>\w+)==(?P<value>'[^']*'|\"[^\"]*\"|true|false)\)\]"
)
_UNKNOWN = "<unknown>"
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
# Below so many seconds: the unit, its seconds, the smaller unit, its seconds, and whether that one is written.
_AGES: tuple[tuple[float, str, int, str, int, bool], ...] = (
    (10 * _MINUTE, "m", _MINUTE, "s", 1, True),
    (3 * _HOUR, "m", _MINUTE, "s", 1, False),
    (8 * _HOUR, "h", _HOUR, "m", _MINUTE, True),
    (2 * _DAY, "h", _HOUR, "m", _MINUTE, False),
    (8 * _DAY, "d", _DAY, "h", _HOUR, True),
    (2 * _YEAR, "d", _DAY, "h", _HOUR, False),
    (8 * _YEAR, "y", _YEAR, "d", _DAY, True),
    (float("inf"), "y", _YEAR, "d", _DAY, False),
)


def cell(column: Column, found: Object, now: datetime) -> Cell:
    """A missing value is None, which kubectl shows as nothing (a missing date as <unknown>)."""
    computed = _COMPUTED.get(column.path)
    if computed is not None:
        try:
            return computed(found, now)
        except (TypeError, AttributeError, ValueError):  # one odd object is no reason to show none
            return None
    values = _values(column.path, found)
    if column.type == "date":
        return _age(values[0] if values else None, now)
    if not values:
        return None
    if column.type == "string":
        return ",".join(_text(value) for value in values)
    value = values[0]
    return value if isinstance(value, bool | int) else str(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[re.Match[str], ...]:
    steps = tuple(_STEP.finditer(path))
    if "".join(step[0] for step in steps) != path:
        raise ValueError(f"expected a JSONPath of fields, [*] and [?(@.key==value)], seen {path!r}")
    return steps


def _values(path: str, found: Any) -> list[Any]:
    values = [found]
    for step in _steps(path):
        values = [each for value in values for each in _step(step, value)]
    return [value for value in values if value is not None]


def _step(step: re.Match[str], value: Any) -> list[Any]:
    field = step["field"] or step["quoted"]
    if field is not None:
        return [value.get(field.replace("\\", ""))] if isinstance(value, dict) else []
    if not isinstance(value, list):
        return []
    if step["all"]:
        return value
    wanted: Any = {"true": True, "false": False}.get(step["value"], step["value"][1:-1])
    return [each for each in value if isinstance(each, dict) and each.get(step["key"]) == wanted]


def _age(value: Any, now: datetime) -> str:
    try:
        since = datetime.fromisoformat(str(value))
    except ValueError:
        return _UNKNOWN
    if since.tzinfo is None:
        return _UNKNOWN
    return duration((now - since).total_seconds())


def duration(seconds: float) -> str:
    """As kubectl writes ages: two units while the first is small, and never a negative one."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    unit, size, smaller, smaller_size, both = next(row for row in _AGES if whole < row[0])[1:]
    second = whole % size // smaller_size if both else 0
    return f"{whole // size}{unit}" + (f"{second}{smaller}" if second else "")


def _containers(found: Object) -> list[Any]:
    return (found.get("status") or {}).get("containerStatuses") or []


def _pod_ready(found: Object, _: datetime) -> Cell:
    count = len((found.get("spec") or {}).get("containers") or [])
    return f"{sum(bool(each.get('ready')) for each in _containers(found))}/{count}"


def _pod_status(found: Object, _: datetime) -> Cell:
    """Terminating, or why a container waits or ended, or the phase."""
    if "deletionTimestamp" in found["metadata"]:
        return "Terminating"
    for status in _containers(found):
        for state in ("waiting", "terminated"):
            reason = ((status.get("state") or {}).get(state) or {}).get("reason")
            if reason:
                return str(reason)
    status = found.get("status") or {}
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _pod_restarts(found: Object, _: datetime) -> Cell:
    return str(sum(int(each.get("restartCount") or 0) for each in _containers(found)))


def _deployment_ready(found: Object, _: datetime) -> Cell:
    ready = (found.get("status") or {}).get("readyReplicas") or 0
    return f"{ready}/{(found.get('spec') or {}).get('replicas', 1)}"


def _service_ports(found: Object, _: datetime) -> Cell:
    ports = (found.get("spec") or {}).get("ports") or []
    return ",".join(f"{each.get('port')}/{each.get('protocol', 'TCP')}" for each in ports) or "<none>"


def _data_count(found: Object, _: datetime) -> Cell:
    return len(found.get("data") or {}) + len(found.get("binaryData") or {})


def _event_last_seen(found: Object, now: datetime) -> Cell:
    last = found.get("lastTimestamp") or found.get("eventTime") or found["metadata"].get("creationTimestamp")
    return _age(last, now)


def _event_object(found: Object, _: datetime) -> Cell:
    involved = found.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


_COMPUTED: dict[str, Callable[[Object, datetime], Cell]] = {
    "pod-ready": _pod_ready,
    "pod-status": _pod_status,
    "pod-restarts": _pod_restarts,
    "deployment-ready": _deployment_ready,
    "service-ports": _service_ports,
    "data-count": _data_count,
    "event-last-seen": _event_last_seen,
    "event-object": _event_object,
}


def utc_now() -> datetime:
    return datetime.now(UTC)
