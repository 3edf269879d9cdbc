"""The `scale` of a Deployment, by which `kubectl scale` reads and writes how many there are to be; pure."""

from __future__ import annotations

from typing import Any

from whimbrel.local.api.faults import BadRequest
from whimbrel.local.api.kinds import DEPLOYMENT, Kind
from whimbrel.local.api.metadata import Object

SCALE = Kind("autoscaling", "v1", "Scale", "scales")
SCALED = (DEPLOYMENT,)
_OF_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(found: Object) -> Object:
    labels = (found["spec"].get("selector") or {}).get("matchLabels") or {}
    status = {
        "replicas": (found.get("status") or {}).get("replicas", 0),
        "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
    }
    return {
        "apiVersion": SCALE.api_version,
        "kind": SCALE.kind,
        "metadata": {name: found["metadata"][name] for name in _OF_METADATA},
        "spec": {"replicas": found["spec"].get("replicas", 1)},
        "status": status,
    }


def with_scale(found: Object, scale: Any) -> Object:
    """The object with as many replicas as the scale says. Raises BadRequest."""
    replicas = _part(scale, "spec").get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise BadRequest(f"spec.replicas: expected a number, seen {replicas!r:.80}")
    version = _part(scale, "metadata").get("resourceVersion") or found["metadata"]["resourceVersion"]
    metadata = found["metadata"] | {"resourceVersion": version}
    return {**found, "metadata": metadata, "spec": found["spec"] | {"replicas": replicas}}


def _part(scale: Any, name: str) -> dict[str, Any]:
    part = (scale.get(name) or {}) if isinstance(scale, dict) else scale
    if not isinstance(part, dict):
        raise BadRequest(f"{name}: expected an object, seen {part!r:.80}")
    return part
