"""What a user may apply: every field judged, every value checked, every image one that can run here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.local import fields, shapes
from whimbrel.local.api.kinds import KINDS
from whimbrel.local.api.metadata import Object
from whimbrel.local.autoscaling import read_scaling
from whimbrel.local.broker.config import parse_config
from whimbrel.local.control import names, pods

# Made by the engine, and what a cluster runs and this engine does not.
_NOT_APPLIED = {
    "Pod": "pods are made for InferenceServices, Knative Services, ContainerSources and Deployments",
    "ReplicaSet": "apply a Deployment",
    "Configuration": "apply a Knative Service",
    "Route": "apply a Knative Service",
    "Revision": "apply a Knative Service",
    "PersistentVolumeClaim": "there are no volumes here",
}


def verdict(found: Object) -> fields.Verdict:
    """Raises InputRefused, with the path, for an object that can never work here."""
    kind = found["kind"]
    if kind in _NOT_APPLIED or (kind == "Service" and found["apiVersion"] == "v1"):
        raise InputRefused(f"not a kind to apply on one machine: {_NOT_APPLIED.get(kind, 'apply a Knative Service')}")
    if fields.API_VERSIONS.get(kind) != found["apiVersion"]:
        return fields.Verdict((), ())
    judged = fields.judge(found)
    shapes.check(found)
    for path, container, noted in _containers(found):
        try:
            pods.command(container, noted)
            read_scaling(noted, 0, 60)
            declared = {entry["name"]: str(entry.get("value", "")) for entry in container.get("env", [])}
            for part in ("command", "args"):
                pods.refuse_other_hosts(container.get(part, []), declared, part)
        except InputRefused as error:
            raise InputRefused(f"{path}: {error}") from None
    _check_delivery(found)
    _check_is_served(found)
    return judged


def _containers(found: Object) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Each with its path and the annotations that its pods get."""
    spec, own = found.get("spec") or {}, names.annotations_of(found)
    if found["kind"] == "InferenceService":
        for component in ("predictor", "transformer"):
            part = spec.get(component) or {}
            for container in part.get("containers") or ():
                yield f"spec.{component}.containers[0]", container, own | dict(part.get("annotations") or {})
    elif found["kind"] in ("Service", "ContainerSource", "Deployment"):
        template = spec["template"]
        yield "spec.template.spec.containers[0]", template["spec"]["containers"][0], names.annotations_of(template)
    elif found["kind"] in ("ServingRuntime", "ClusterServingRuntime"):
        yield "spec.containers[0]", spec["containers"][0], own


def _check_is_served(found: Object) -> None:
    """What a cluster needs comes with the definition of a kind that is served here anyway; no other kind is."""
    if found["kind"] != "CustomResourceDefinition":
        return
    name = str(found["metadata"].get("name"))
    if not any(kind.resource == name for kind in KINDS):
        raise InputRefused(f"expected the definition of a kind that is served here, seen {name!r:.120}")


def _check_delivery(found: Object) -> None:
    """What the broker itself would not take of its configuration, it would only log."""
    if found["kind"] not in ("Broker", "Trigger"):
        return
    spec, placed = found.get("spec") or {}, {"namespace": "default", "name": "any"}
    delivery = dict(spec.get("delivery") or {})
    if "deadLetterSink" in delivery:
        delivery["deadLetterSink"] = {"uri": "http://127.0.0.1"}
    broker: dict[str, Any] = dict(placed)
    trigger: dict[str, Any] = {**placed, "broker": "any", "subscriber": {"uri": "http://127.0.0.1"}}
    (broker if found["kind"] == "Broker" else trigger).update({"delivery": delivery} if delivery else {})
    trigger |= {name: spec[name] for name in ("filter", "filters") if spec.get(name)}
    document = {"brokers": [broker], "triggers": [trigger]}
    try:
        parse_config(json.dumps(document), origin="")
    except SettingsError as error:
        text = str(error).removeprefix(": ")
        raise InputRefused(text.replace("brokers[0].", "spec.").replace("triggers[0].", "spec.")) from None
