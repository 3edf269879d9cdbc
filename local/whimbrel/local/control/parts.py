"""The Configuration and the Route of a Knative service: what it is made of, to look at; pure.

Nothing here follows from them: revisions and routes are made of the service itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.control import conditions, names
from whimbrel.local.control.conditions import Condition
from whimbrel.local.control.world import owner_reference

_OF_CONFIGURATION = ("latestCreatedRevisionName", "latestReadyRevisionName")
_OF_ROUTE = ("url", "address", "traffic")
_EVERYTHING = [{"latestRevision": True, "percent": 100}]


def configuration(service: Object) -> Object:
    return _part(service, {"template": service["spec"]["template"]})


def route(service: Object) -> Object:
    name = service["metadata"]["name"]
    traffic = service["spec"].get("traffic") or _EVERYTHING
    latest = [each | ({"configurationName": name} if each.get("latestRevision") else {}) for each in traffic]
    return _part(service, {"traffic": latest})


def configuration_status(found: Object, service: Object, now: str) -> dict[str, Any]:
    """`service` has its own status already."""
    ready = conditions.read(service, "ConfigurationsReady")
    listed = [Condition("Ready", ready.status, ready.reason, ready.message)]
    return _status(found, service, _OF_CONFIGURATION, listed, now)


def route_status(found: Object, service: Object, now: str) -> dict[str, Any]:
    """`service` has its own status already."""
    ready = conditions.read(service, "RoutesReady")
    listed = [Condition(each, ready.status, ready.reason, ready.message) for each in ("AllTrafficAssigned", "Ready")]
    return _status(found, service, _OF_ROUTE, [*listed, Condition("IngressReady", "True")], now)


def _part(service: Object, spec: Mapping[str, Any]) -> Object:
    namespace, name = names.of(service)
    labels = names.labels_of(service) | {names.SERVICE_LABEL: name}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner_reference(service)]}
    return {"metadata": metadata, "spec": dict(spec)}


def _status(
    found: Object, service: Object, fields: tuple[str, ...], listed: list[Condition], now: str
) -> dict[str, Any]:
    before = (found.get("status") or {}).get("conditions", [])
    of_service: Mapping[str, Any] = service.get("status") or {}
    return {
        **{name: of_service[name] for name in fields if name in of_service},
        "conditions": conditions.merged(before, listed, now),
        "observedGeneration": found["metadata"].get("generation", 1),
    }
