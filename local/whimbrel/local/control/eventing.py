"""Brokers, Triggers, ContainerSources and SinkBindings: references resolved to addresses, configuration, statuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from whimbrel.local.api.kinds import (
    BROKER,
    CONTAINER_SOURCE,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    KNATIVE_SERVICE,
    SINK_BINDING,
    TRIGGER,
)
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import conditions, names
from whimbrel.local.control.conditions import Condition
from whimbrel.local.control.world import World

_BOUND = {"Service": KNATIVE_SERVICE, "Deployment": DEPLOYMENT}
_ADDRESSABLE = {"Broker": BROKER, "InferenceService": INFERENCE_SERVICE, "Service": KNATIVE_SERVICE}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a destination is; empty, with the reason, while that is not known."""

    uri: str = ""
    reason: str = ""

    def condition(self, type_: str, reason: str) -> Condition:
        return Condition(type_, "True") if self.uri else Condition(type_, "False", reason, self.reason)


def resolve(world: World, owner: Object, destination: Mapping[str, Any]) -> Resolved:
    """As Knative does it: from the address in the status of what is referred to."""
    reference, uri = destination.get("ref"), destination.get("uri", "")
    if reference is None:
        return Resolved(uri) if uri else Resolved(reason="expected a ref or a uri")
    kind = _ADDRESSABLE.get(reference["kind"])
    namespace = reference.get("namespace") or owner["metadata"]["namespace"]
    found = world.find(kind, namespace, reference["name"]) if kind is not None else None
    named = f"{reference['kind']} {reference['name']!r} in namespace {namespace!r}"
    if found is None:
        return Resolved(reason=f"no {named}")
    address = (found.get("status") or {}).get("address", {}).get("url", "")
    if not address:
        return Resolved(reason=f"{named} has no address yet")
    return Resolved(urljoin(address, uri) if uri else address)


def broker_configuration(world: World, unresolved: str) -> dict[str, Any]:
    """What the broker's process reads. `unresolved` takes the place of an address that is not known yet: the broker
    then answers that the event has to be sent again, where leaving the trigger out would lose it."""
    brokers = [_placed(each) | _delivery(world, each, unresolved) for each in world.of(BROKER)]
    known = {(each["namespace"], each["name"]) for each in brokers}
    triggers = []
    for trigger in world.of(TRIGGER):
        spec, placed = trigger["spec"], _placed(trigger)
        if (placed["namespace"], spec["broker"]) not in known:
            continue
        uri = resolve(world, trigger, spec["subscriber"]).uri or unresolved
        chosen = {name: spec[name] for name in ("filter", "filters") if spec.get(name)}
        delivery = _delivery(world, trigger, unresolved)
        triggers.append(placed | {"broker": spec["broker"], "subscriber": {"uri": uri}} | chosen | delivery)
    return {"brokers": brokers, "triggers": triggers}


def broker_status(world: World, broker: Object, address: str, running: bool, now: str) -> dict[str, Any]:
    """`running`: the broker's process has a configuration with this broker in it."""
    sink = (broker["spec"].get("delivery") or {}).get("deadLetterSink") if broker.get("spec") else None
    letters = _dead_letters(world, broker, sink)
    process = Condition("IngressReady", "True" if running else "Unknown")
    parts = [
        Condition("Addressable", process.status),
        letters,
        Condition("FilterReady", process.status),
        process,
        Condition("TriggerChannelReady", process.status),
    ]
    found = _status(broker, [*parts, conditions.together("Ready", parts)], now)
    before = (broker.get("status") or {}).get("address", {}).get("url")
    return found | ({"address": {"url": address}} if running or before == address else {})


def trigger_status(world: World, trigger: Object, now: str) -> dict[str, Any]:
    spec = trigger["spec"]
    broker = world.find(BROKER, trigger["metadata"]["namespace"], spec["broker"])
    subscriber = resolve(world, trigger, spec["subscriber"])
    if broker is None:
        broker_ready = Condition(
            "BrokerReady", "False", "BrokerDoesNotExist", f'Broker "{spec["broker"]}" does not exist'
        )
    else:
        seen = conditions.read(broker, "Ready")
        broker_ready = Condition("BrokerReady", seen.status, seen.reason, seen.message)
    parts = [
        broker_ready,
        subscriber.condition("SubscriberResolved", "Unable to get the Subscriber's URI"),
        _dead_letters(world, trigger, (spec.get("delivery") or {}).get("deadLetterSink")),
        Condition("DependencyReady", "True"),
        Condition("SubscriptionReady", "True" if subscriber.uri else "Unknown"),
    ]
    found = _status(trigger, [*parts, conditions.together("Ready", parts)], now)
    return found | ({"subscriberUri": subscriber.uri} if subscriber.uri else {})


def source_environment(world: World, source: Object) -> list[dict[str, str]] | None:
    """What Knative gives the container of a source, or what a SinkBinding binds; None while the sink is not known."""
    sink = resolve(world, source, source["spec"]["sink"])
    reference = source["spec"]["sink"].get("ref")
    if reference and reference["kind"] == "Broker":
        broker = world.find(BROKER, reference.get("namespace") or source["metadata"]["namespace"], reference["name"])
        if conditions.read(broker, "IngressReady").status != "True":
            return None
    if not sink.uri:
        return None
    given = [{"name": "K_SINK", "value": sink.uri}]
    overrides = source["spec"].get("ceOverrides") or {}
    if overrides.get("extensions"):
        given.append({"name": "K_CE_OVERRIDES", "value": json.dumps({"extensions": overrides["extensions"]})})
    return given


def source_status(world: World, source: Object, ready: bool, failure: str, now: str) -> dict[str, Any]:
    sink = resolve(world, source, source["spec"]["sink"])
    parts = [
        sink.condition("SinkBindingReady", "NotFound"),
        Condition("ReceiveAdapterReady", "True")
        if ready
        else Condition("ReceiveAdapterReady", "False", "DeploymentUnavailable", failure or "its process is not ready"),
    ]
    found = _status(source, [*parts, conditions.together("Ready", parts)], now)
    return found | ({"sinkUri": sink.uri} if sink.uri else {})


def binding_status(world: World, binding: Object, subjects: int, now: str) -> dict[str, Any]:
    sink = resolve(world, binding, binding["spec"]["sink"])
    parts = [sink.condition("SinkAvailable", "NotFound")]
    if not subjects:
        parts.append(
            Condition("SubjectAvailable", "False", "SubjectMissing", f"no such {binding['spec']['subject']['kind']}")
        )
    found = _status(binding, [*parts, conditions.together("Ready", parts)], now)
    return found | ({"sinkUri": sink.uri} if sink.uri else {})


def subjects(world: World, binding: Object) -> list[Object]:
    """The Knative services or Deployments that a SinkBinding binds, by name or by labels."""
    subject, namespace = binding["spec"]["subject"], binding["metadata"]["namespace"]
    kind = _BOUND[subject["kind"]]
    if subject.get("name"):
        found = world.find(kind, namespace, subject["name"])
        return [found] if found else []
    wanted = (subject.get("selector") or {}).get("matchLabels") or {}
    return [
        each
        for each in world.of(kind)
        if each["metadata"]["namespace"] == namespace and wanted and wanted.items() <= names.labels_of(each).items()
    ]


def bound_environment(world: World, subject: Object) -> list[dict[str, str]]:
    """What the SinkBindings of a Knative service or a Deployment add to its containers."""
    found: list[dict[str, str]] = []
    for binding in world.of(SINK_BINDING):
        if any(each["metadata"]["uid"] == subject["metadata"]["uid"] for each in subjects(world, binding)):
            found += source_environment(world, binding) or []
    return found


def everything(world: World) -> list[Object]:
    """Whose readiness counts for the whole."""
    return [each for kind in (BROKER, TRIGGER, CONTAINER_SOURCE, SINK_BINDING) for each in world.of(kind)]


def _placed(found: Object) -> dict[str, Any]:
    namespace, name = names.of(found)
    return {"namespace": namespace, "name": name}


def _delivery(world: World, owner: Object, unresolved: str) -> dict[str, Any]:
    delivery = (owner.get("spec") or {}).get("delivery")
    if not delivery:
        return {}
    found = dict(delivery)
    if found.get("deadLetterSink"):
        found["deadLetterSink"] = {"uri": resolve(world, owner, found["deadLetterSink"]).uri or unresolved}
    return {"delivery": found}


def _dead_letters(world: World, owner: Object, sink: Mapping[str, Any] | None) -> Condition:
    if not sink:
        return Condition("DeadLetterSinkResolved", "True", "DeadLetterSinkNotConfigured", info=True)
    return resolve(world, owner, sink).condition("DeadLetterSinkResolved", "Unable to get the dead letter sink's URI")


def _status(found: Object, listed: list[Condition], now: str) -> dict[str, Any]:
    before = (found.get("status") or {}).get("conditions", [])
    return {
        "conditions": conditions.merged(before, listed, now),
        "observedGeneration": found["metadata"].get("generation", 1),
    }
