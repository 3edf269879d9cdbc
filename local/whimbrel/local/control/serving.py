"""Knative services: a revision for each change of the template, traffic only to ready ones, and their status; pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.control import conditions, names
from whimbrel.local.control.conditions import Condition
from whimbrel.local.control.world import owner_reference
from whimbrel.local.rollout import Target, read_traffic, resolved

REVISIONS_KEPT = 20  # without traffic, as many as Knative keeps at least
_EVERYTHING = (Target(100, latest=True),)


def number(revision: Object) -> int:
    return int(names.labels_of(revision).get(names.GENERATION_LABEL, "0"))


def new_revision(
    service: Object, revisions: Sequence[Object], extra_env: Sequence[Mapping[str, str]] = ()
) -> Object | None:
    """The revision that this template still lacks; None where the latest one is of it.

    `extra_env`: what SinkBindings add to its containers.
    """
    template = with_environment(service["spec"]["template"], extra_env)
    digest = digest_of(template)
    latest = max(revisions, key=number, default=None)
    if latest is not None and names.annotations_of(latest).get(names.TEMPLATE_DIGEST) == digest:
        return None
    namespace, name = names.of(service)
    remembered = (service.get("status") or {}).get("latestCreatedRevisionName", "").rpartition("-")[2] or "0"
    count = max([int(remembered), *(number(each) for each in revisions)]) + 1
    given = {names.SERVICE_LABEL: name, names.CONFIGURATION_LABEL: name, names.GENERATION_LABEL: str(count)}
    return {
        "metadata": {
            "name": f"{name}-{count:05d}",
            "namespace": namespace,
            "labels": names.labels_of(template) | given,
            "annotations": names.annotations_of(template) | {names.TEMPLATE_DIGEST: digest},
            "ownerReferences": [owner_reference(service)],
        },
        "spec": template["spec"],
    }


def superfluous(service: Object, revisions: Sequence[Object]) -> list[Object]:
    """Old revisions beyond those that are kept: none that has traffic or a tag, nor the latest."""
    used = {target.revision for target in read_traffic((service.get("status") or {}).get("traffic", []))}
    used |= {target.revision for target in read_traffic(service["spec"].get("traffic", []))}
    old = sorted((each for each in revisions if each["metadata"]["name"] not in used), key=number)[:-1]
    return old[: max(0, len(old) - REVISIONS_KEPT)]


def revision_status(
    revision: Object, *, ready: int, wanted: int, failure: str, deadline_seconds: float, now: datetime
) -> dict[str, Any]:
    """Of a revision with `ready` processes. Once ready it stays that, at zero too."""
    before = revision.get("status") or {}
    was_ready = conditions.is_ready(revision)
    created = datetime.fromisoformat(revision["metadata"]["creationTimestamp"])
    if was_ready or ready:
        healthy = Condition("ContainerHealthy", "True")
        available = Condition("ResourcesAvailable", "True")
    elif (now - created).total_seconds() > deadline_seconds:
        told = conditions.read(revision, "Ready")  # once it is given up, its processes and what they said are gone
        message = failure or f"no process was ready within {deadline_seconds:g} s"
        message = told.message if told.status == "False" else message
        healthy = Condition("ContainerHealthy", "False", "ContainerUnhealthy", message)
        available = Condition("ResourcesAvailable", "False", "ProgressDeadlineExceeded", message)
    else:
        healthy = Condition("ContainerHealthy", "Unknown", "Deploying", failure)
        available = Condition("ResourcesAvailable", "Unknown", "Deploying")
    if ready:
        active = Condition("Active", "True", info=True)
    elif wanted:
        active = Condition(
            "Active", "Unknown", "Queued", "Requests to the target are being buffered as it starts.", info=True
        )
    else:
        active = Condition("Active", "False", "NoTraffic", "The target is not receiving traffic.", info=True)
    listed = [active, healthy, available, conditions.together("Ready", [healthy, available])]
    return {
        "actualReplicas": ready,
        "desiredReplicas": wanted,
        "conditions": conditions.merged(before.get("conditions", []), listed, conditions.written_time(now)),
        "observedGeneration": revision["metadata"].get("generation", 1),
    }


def service_status(
    service: Object, revisions: Sequence[Object], addresses: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """`addresses`: its URL under "", the internal one under "internal", and that of each tag."""
    before = service.get("status") or {}
    by_name = {each["metadata"]["name"]: each for each in revisions}
    created = max(revisions, key=number, default=None)
    ready = _latest_ready(revisions)
    asked = read_traffic(service["spec"].get("traffic") or ()) or _EVERYTHING
    traffic = resolved(asked, ready)
    missing = [each.revision for each in traffic if not conditions.is_ready(by_name.get(each.revision))]
    configuration = _configuration(created)
    route = _route(service["metadata"]["name"], ready, missing)
    listed = [configuration, route, conditions.together("Ready", [route, configuration])]
    found: dict[str, Any] = {
        "conditions": conditions.merged(before.get("conditions", []), listed, conditions.written_time(now)),
        "observedGeneration": service["metadata"].get("generation", 1),
        "latestCreatedRevisionName": created["metadata"]["name"] if created else "",
        "latestReadyRevisionName": ready,
        "traffic": before.get("traffic", []) if missing else [_entry(each, addresses) for each in traffic],
        "url": addresses[""],
    }
    if ready:
        found["address"] = {"url": addresses["internal"]}
    return {name: value for name, value in found.items() if value}


def _latest_ready(revisions: Sequence[Object]) -> str:
    ready = [each for each in revisions if conditions.is_ready(each)]
    return str(max(ready, key=number)["metadata"]["name"]) if ready else ""


def _configuration(created: Object | None) -> Condition:
    seen = conditions.read(created, "Ready")
    if seen.status != "False" or created is None:
        return Condition("ConfigurationsReady", seen.status)
    name = created["metadata"]["name"]
    return Condition(
        "ConfigurationsReady", "False", "RevisionFailed", f'Revision "{name}" failed with message: {seen.message}.'
    )


def _route(name: str, ready: str, missing: Sequence[str]) -> Condition:
    if not ready:
        message = f'Configuration "{name}" is waiting for a Revision to become ready.'
        return Condition("RoutesReady", "Unknown", "RevisionMissing", message)
    if missing:
        message = f'Revision "{missing[0]}" referenced in traffic not found or not ready.'
        return Condition("RoutesReady", "False", "RevisionMissing", message)
    return Condition("RoutesReady", "True")


def _entry(target: Target, addresses: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "latestRevision": target.latest,
        "percent": target.percent,
        "revisionName": target.revision,
    }
    return found | ({"tag": target.tag, "url": addresses[target.tag]} if target.tag else {})


def digest_of(template: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()


def with_environment(template: Mapping[str, Any], extra_env: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A copy whose containers have these variables too."""
    found: dict[str, Any] = json.loads(json.dumps(template))
    for container in found["spec"]["containers"] if extra_env else ():
        given = {entry["name"] for entry in extra_env}
        kept = [entry for entry in container.get("env", []) if entry["name"] not in given]
        container["env"] = [*kept, *extra_env]
    return found
