"""References: what an object names has to be there, and has to be readable by who follows the name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, group_of, items, mapping, namespace_of, warning
from whimbrel.kube.lint.workloads import EVENTING, KNATIVE, KSERVE, SOURCES

_FOLLOWED = {(EVENTING, "Broker"), (KNATIVE, "Service"), ("", "Service"), (KSERVE, "InferenceService")}
_ADDRESSABLE = "duck.knative.dev/addressable"


def _references(manifests: Manifests) -> Iterator[tuple[Rendered, str, Mapping[str, Any]]]:
    """Every reference to an object that takes events or requests: who names it, where, and the reference."""
    for document in manifests.of(EVENTING, "Trigger", "Broker"):
        spec = mapping(document.object.get("spec"))
        yield document, "spec.subscriber.ref", mapping(mapping(spec.get("subscriber")).get("ref"))
        dead_letters = mapping(mapping(spec.get("delivery")).get("deadLetterSink"))
        yield document, "spec.delivery.deadLetterSink.ref", mapping(dead_letters.get("ref"))
        if document.object["kind"] == "Trigger" and spec.get("broker"):
            broker = {"apiVersion": f"{EVENTING}/v1", "kind": "Broker", "name": spec["broker"]}
            yield document, "spec.broker", broker
    for document in manifests.of(SOURCES, "ContainerSource", "SinkBinding"):
        sink = mapping(mapping(document.object.get("spec")).get("sink"))
        yield document, "spec.sink.ref", mapping(sink.get("ref"))
    for document in manifests.of(KSERVE, "InferenceGraph"):
        nodes = mapping(mapping(document.object.get("spec")).get("nodes"))
        for name, node in nodes.items():
            for index, step in enumerate(items(mapping(node).get("steps"))):
                service = mapping(step).get("serviceName")
                ref = (
                    {"apiVersion": f"{KSERVE}/v1beta1", "kind": "InferenceService", "name": service} if service else {}
                )
                yield document, f"spec.nodes.{name}.steps[{index}].serviceName", ref


def _dangling(manifests: Manifests) -> Iterator[Fault]:
    there = {
        (group_of(found), found["kind"], namespace_of(found), found["metadata"]["name"])
        for found in (document.object for document in manifests.documents)
    }
    for document, path, ref in _references(manifests):
        group, kind, name = str(ref.get("apiVersion", "")).rpartition("/")[0], ref.get("kind"), ref.get("name")
        namespace = ref.get("namespace") or namespace_of(document.object)
        if (group, kind) in _FOLLOWED and (group, kind, namespace, name) not in there:
            yield Fault(document, path, f"{kind} {name!r} in the namespace {namespace!r}")


def _unresolvable(manifests: Manifests) -> Iterator[Fault]:
    if any(_reads_inference_services(role.object) for role in manifests.of("rbac.authorization.k8s.io", "ClusterRole")):
        return
    for document, path, ref in _references(manifests):
        if ref.get("kind") == "InferenceService" and document.object["kind"] != "InferenceGraph":
            yield Fault(document, path, f"InferenceService {ref.get('name')!r}")


def _reads_inference_services(role: Mapping[str, Any]) -> bool:
    labels = mapping(role["metadata"].get("labels"))
    rules = [mapping(rule) for rule in items(role.get("rules"))]
    return str(labels.get(_ADDRESSABLE)).lower() == "true" and any(
        "inferenceservices" in items(rule.get("resources")) for rule in rules
    )


RULES: tuple[Rule, ...] = (
    warning(
        "dangling-reference",
        "what is named is not among these manifests: without it the one that names it is never Ready",
        "add it, mend the name, or apply it before",
        _dangling,
    ),
    warning(
        "addressable-role",
        "Knative Eventing may read an InferenceService's address only by a ClusterRole with the label "
        f"{_ADDRESSABLE}; until then the Trigger is not Ready",
        "apply manifests/base/addressable-resolver.yaml, once a cluster",
        _unresolvable,
    ),
)
