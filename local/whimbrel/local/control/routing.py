"""Where requests for a Knative service go: its hosts, those of its tags, and the weight of each revision; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whimbrel.local.api import kinds
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import inference, names
from whimbrel.local.control.world import World
from whimbrel.local.rollout import Target, read_traffic

Key = tuple[str, str]  # namespace and name
Shares = tuple[tuple[int, Key], ...]


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A service, or a tag of one (`service` is then empty, and `name` is TAG-SERVICE), and each revision's weight.
    `owner`: the Knative service."""

    owner: Key
    name: str
    kind: str  # that a user applied
    host: str
    service: str
    shares: Shares
    timeout_seconds: float


def routes(world: World, service: Object) -> list[RoutePlan]:
    namespace, name = names.of(service)
    status = service.get("status") or {}
    revisions = {each["metadata"]["name"] for each in world.owned(kinds.REVISION, service)}
    traffic = [each for each in read_traffic(status.get("traffic", [])) if each.revision in revisions]
    shares = _shares(namespace, traffic)
    created = status.get("latestCreatedRevisionName", "")
    if not shares and created in revisions:  # whoever comes before the first one is ready waits for it
        shares = ((100, (namespace, created)),)
    timeout = service["spec"]["template"]["spec"].get("timeoutSeconds", 300)
    owner = names.labels_of(service).get(names.INFERENCE_SERVICE_LABEL, "")
    kind = "InferenceService" if owner else "Service"
    qualified = names.qualified(name, namespace)
    key = names.of(service)
    found = [
        RoutePlan(key, qualified, kind, host, qualified, shares, timeout) for host in _hosts(world, service, owner)
    ]
    for target in traffic:
        if target.tag:
            tagged = f"{target.tag}-{qualified}"
            host = names.host(f"{target.tag}-{name}", namespace)
            found.append(RoutePlan(key, tagged, kind, host, "", ((100, (namespace, target.revision)),), timeout))
    return found


def _shares(namespace: str, traffic: Sequence[Target]) -> Shares:
    return tuple((target.percent, (namespace, target.revision)) for target in traffic if target.percent)


def _hosts(world: World, service: Object, owner: str) -> list[str]:
    """Its own, and that of its InferenceService where it answers for the whole."""
    namespace, name = names.of(service)
    found = world.find(kinds.INFERENCE_SERVICE, namespace, owner) if owner else None
    if found is not None and inference.component_name(found, inference.entry(found)) == name:
        return [names.host(name, namespace), names.host(owner, namespace)]
    return [names.host(name, namespace)]
