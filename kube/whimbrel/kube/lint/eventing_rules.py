"""Brokers, Triggers and sources: open schemas, and deliveries that end too early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint import durations
from whimbrel.kube.lint.rule import (
    Fault,
    Manifests,
    Rule,
    annotations_of,
    error,
    items,
    mapping,
    namespace_of,
    number,
    warning,
)
from whimbrel.kube.lint.workloads import EVENTING, SOURCES, components, environment

_REFERENCE: dict[str, Any] = dict.fromkeys(("apiVersion", "kind", "name", "namespace"))
_DESTINATION: dict[str, Any] = {"ref": _REFERENCE, "uri": None, "CACerts": None, "audience": None}
_DELIVERY: dict[str, Any] = {
    "deadLetterSink": _DESTINATION,
    **dict.fromkeys(("retry", "timeout", "backoffPolicy", "backoffDelay", "retryAfterMax", "format")),
}
# What the webhook knows; None ends the check.
_KNOWN: dict[str, dict[str, Any]] = {
    "Trigger": {
        "broker": None,
        "brokerRef": _REFERENCE,
        "filter": {"attributes": None},
        "filters": None,
        "subscriber": _DESTINATION,
        "delivery": _DELIVERY,
    },
    "Broker": {"config": _REFERENCE, "delivery": _DELIVERY},
}
_DIALECTS = ("exact", "prefix", "suffix", "all", "any", "not", "cesql")
_ASYNCHRONOUS = ("Kafka", "KafkaNamespaced", "RabbitMQBroker")  # they answer when they have stored
_COLD_START_SECONDS = 30
_TIMEOUT_SETTING = "WHIMBREL_SINK_TIMEOUT_SECONDS"


def _of(manifests: Manifests, *kinds: str) -> Iterator[tuple[Rendered, Mapping[str, Any]]]:
    for document in manifests.of(EVENTING, *kinds):
        yield document, mapping(document.object.get("spec"))


def _fields(manifests: Manifests) -> Iterator[Fault]:
    for document, spec in _of(manifests, "Trigger", "Broker"):
        for path in _unknown(spec, _KNOWN[document.object["kind"]], "spec"):
            yield Fault(document, path, "a field that does not exist")


def _unknown(found: Any, known: dict[str, Any] | None, path: str) -> Iterator[str]:
    if known is None or not isinstance(found, Mapping):
        return
    for name, value in found.items():
        if name not in known:
            yield f"{path}.{name}"
        else:
            yield from _unknown(value, known[name], f"{path}.{name}")


def _filters(manifests: Manifests) -> Iterator[Fault]:
    for document, spec in _of(manifests, "Trigger"):
        for index, entry in enumerate(items(spec.get("filters"))):
            yield from _filter_faults(document, entry, f"spec.filters[{index}]")


def _filter_faults(document: Rendered, entry: Any, path: str) -> Iterator[Fault]:
    dialects = list(mapping(entry))
    if len(dialects) != 1 or dialects[0] not in _DIALECTS:
        yield Fault(document, path, ", ".join(map(str, dialects)) or "nothing")
        return
    inner = entry[dialects[0]]
    if dialects[0] in ("all", "any"):
        for index, each in enumerate(items(inner)):
            yield from _filter_faults(document, each, f"{path}.{dialects[0]}[{index}]")
    elif dialects[0] == "not":
        yield from _filter_faults(document, inner, f"{path}.not")


def _deliveries(manifests: Manifests) -> Iterator[tuple[Rendered, Mapping[str, Any]]]:
    for document, spec in _of(manifests, "Trigger", "Broker"):
        yield document, mapping(spec.get("delivery"))


def _durations(manifests: Manifests) -> Iterator[Fault]:
    for document, delivery in _deliveries(manifests):
        for field in ("timeout", "backoffDelay", "retryAfterMax"):
            if field in delivery and durations.seconds(delivery[field]) is None:
                yield Fault(document, f"spec.delivery.{field}", repr(delivery[field]))


def _loops(manifests: Manifests) -> Iterator[Fault]:
    for document, spec in _of(manifests, "Trigger"):
        attributes = mapping(spec.get("filter")).get("attributes")
        if not items(spec.get("filters")) and "type" not in mapping(attributes):
            yield Fault(document, "spec.filters", "no filter by type")


def _dead_letters(manifests: Manifests) -> Iterator[Fault]:
    for document, spec in _of(manifests, "Broker"):
        if "deadLetterSink" not in mapping(spec.get("delivery")):
            yield Fault(document, "spec.delivery.deadLetterSink", "none")


def _patience(manifests: Manifests) -> Iterator[Fault]:
    brokers = {(namespace_of(b.object), b.object["metadata"]["name"]): b.object for b, _ in _of(manifests, "Broker")}
    for document, ref in _posters(manifests):
        broker = brokers.get((ref.get("namespace") or namespace_of(document.object), ref.get("name")))
        if ref.get("kind") != "Broker" or broker is None or _answers_at_once(broker):
            continue
        longest = durations.longest(mapping(mapping(broker.get("spec")).get("delivery")))
        for path, value in _timeouts(mapping(document.object.get("spec"))):
            # The subscriber's attempts, and then as many at the dead-letter sink.
            if longest is not None and value is not None and value <= 2 * longest:
                yield Fault(document, path, f"{value:g} s, and deliveries of up to {2 * longest:g} s")


def _posters(manifests: Manifests) -> Iterator[tuple[Rendered, Mapping[str, Any]]]:
    """Who posts events, by a ContainerSource or by a SinkBinding that names it, and the reference of the sink."""
    for document in manifests.of(SOURCES, "ContainerSource"):
        yield document, _sink(document)
    for binding in manifests.of(SOURCES, "SinkBinding"):
        subject = mapping(mapping(binding.object.get("spec")).get("subject"))
        for document in manifests.of(str(subject.get("apiVersion", "")).rpartition("/")[0], str(subject.get("kind"))):
            if document.object["metadata"]["name"] == subject.get("name"):
                yield document, _sink(binding)


def _sink(document: Rendered) -> Mapping[str, Any]:
    return mapping(mapping(mapping(document.object.get("spec")).get("sink")).get("ref"))


def _answers_at_once(broker: Mapping[str, Any]) -> bool:
    return annotations_of(broker).get("eventing.knative.dev/broker.class") in _ASYNCHRONOUS


def _timeouts(spec: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    pod = mapping(mapping(spec.get("template")).get("spec"))
    for at, container in enumerate(items(pod.get("containers"))):
        for index, name, value in environment(mapping(container)):
            if name == _TIMEOUT_SETTING:
                yield f"spec.template.spec.containers[{at}].env[{index}]", number(value)


def _cold_start(manifests: Manifests) -> Iterator[Fault]:
    sleeping = {
        (namespace_of(component.document.object), component.document.object["metadata"]["name"])
        for component in components(manifests)
        if component.knative and number(component.spec.get("minReplicas", 1)) == 0
    }
    brokers = {(namespace_of(b.object), b.object["metadata"]["name"]): spec for b, spec in _of(manifests, "Broker")}
    for document, spec in _of(manifests, "Trigger"):
        ref = mapping(mapping(spec.get("subscriber")).get("ref"))
        namespace = namespace_of(document.object)
        broker = brokers.get((namespace, spec.get("broker")))
        if (ref.get("namespace") or namespace, ref.get("name")) not in sleeping or broker is None:
            continue
        delivery = {**mapping(broker.get("delivery")), **mapping(spec.get("delivery"))}
        timeout = durations.seconds(delivery.get("timeout"))
        if timeout is None or timeout < _COLD_START_SECONDS:
            yield Fault(document, "spec.subscriber.ref", f"a timeout of {delivery.get('timeout', 'no length')}")


def _binding_subjects(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(SOURCES, "SinkBinding"):
        kind = mapping(mapping(document.object.get("spec")).get("subject")).get("kind")
        if kind == "CronJob":
            yield Fault(document, "spec.subject.kind", kind)


RULES: tuple[Rule, ...] = (
    error(
        "eventing-field",
        "the schema takes any field here, and only Knative's webhook refuses it",
        "see the spelling in Knative Eventing's reference",
        _fields,
    ),
    error(
        "trigger-filter",
        "one dialect an entry, and one that Knative knows; others are refused or match nothing",
        f"write one of {', '.join(_DIALECTS)}",
        _filters,
    ),
    error("duration", "Knative reads ISO-8601 durations only", "write PT0.5S, PT30S or PT2M", _durations),
    warning(
        "trigger-loop",
        "without a filter by type a subscriber's reply comes back to it",
        "filter by type",
        _loops,
    ),
    warning(
        "dead-letter-sink",
        "an event whose attempts are exhausted is dropped",
        "name a deadLetterSink in spec.delivery",
        _dead_letters,
    ),
    error(
        "source-patience",
        "the broker answers when it has delivered and drops the event when its poster hangs up: the source hangs up "
        "earlier than all attempts take",
        f"raise {_TIMEOUT_SETTING}, or lower retry, backoffDelay or timeout",
        _patience,
    ),
    warning(
        "delivery-timeout",
        "the broker gives an attempt up before transformer and predictor have started from zero",
        f"set a timeout of PT{_COLD_START_SECONDS}S or more in the delivery",
        _cold_start,
    ),
    error(
        "sink-binding-subject",
        "a SinkBinding binds the Jobs of a CronJob, never the CronJob",
        "write kind: Job with a selector of the label on the jobTemplate",
        _binding_subjects,
    ),
)
