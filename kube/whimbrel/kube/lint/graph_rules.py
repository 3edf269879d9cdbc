"""What KServe's webhook refuses in an InferenceGraph, and what becomes of its router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.namespaces import restricted
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, namespace_of, number, warning
from whimbrel.kube.lint.workloads import KSERVE

_TARGETS = ("serviceName", "nodeName", "serviceUrl")


def _graphs(manifests: Manifests) -> Iterator[tuple[Rendered, dict[str, Any]]]:
    for document in manifests.of(KSERVE, "InferenceGraph"):
        yield document, dict(mapping(mapping(document.object.get("spec")).get("nodes")))


def _root(manifests: Manifests) -> Iterator[Fault]:
    for document, nodes in _graphs(manifests):
        if "root" not in nodes:
            yield Fault(document, "spec.nodes", ", ".join(nodes) or "none")


def _weights(manifests: Manifests) -> Iterator[Fault]:
    for document, nodes in _graphs(manifests):
        for name, node in nodes.items():
            if mapping(node).get("routerType") == "Splitter":
                weights = [number(mapping(step).get("weight")) for step in items(mapping(node).get("steps"))]
                if None in weights or sum(weight or 0 for weight in weights) != 100:
                    yield Fault(document, f"spec.nodes.{name}.steps", f"weights {weights}")


def _targets(manifests: Manifests) -> Iterator[Fault]:
    for document, nodes in _graphs(manifests):
        for name, node in nodes.items():
            for index, step in enumerate(items(mapping(node).get("steps"))):
                targets = [field for field in _TARGETS if mapping(step).get(field)]
                if len(targets) != 1:
                    yield Fault(document, f"spec.nodes.{name}.steps[{index}]", ", ".join(targets) or "no target")


def _nodes(manifests: Manifests) -> Iterator[Fault]:
    for document, nodes in _graphs(manifests):
        for name, node in nodes.items():
            for index, step in enumerate(items(mapping(node).get("steps"))):
                target = mapping(step).get("nodeName")
                if target and target not in nodes:
                    yield Fault(document, f"spec.nodes.{name}.steps[{index}].nodeName", repr(target))


def _step_names(manifests: Manifests) -> Iterator[Fault]:
    for document, nodes in _graphs(manifests):
        seen: set[str] = set()
        for name, node in nodes.items():
            for index, step in enumerate(items(mapping(node).get("steps"))):
                step_name = str(mapping(step).get("name") or "")
                if step_name and step_name in seen:
                    yield Fault(document, f"spec.nodes.{name}.steps[{index}].name", repr(step_name))
                seen.add(step_name)


def _router(manifests: Manifests) -> Iterator[Fault]:
    for document, _ in _graphs(manifests):
        if restricted(manifests, namespace_of(document.object)):
            yield Fault(document, "metadata.namespace", namespace_of(document.object))


RULES: tuple[Rule, ...] = (
    error(
        "graph-root", "KServe's webhook refuses a graph without a node named root", "name the first node root", _root
    ),
    error(
        "graph-weights",
        "KServe's webhook refuses a Splitter whose weights are not 100 together",
        "give every step a weight, 100 together",
        _weights,
    ),
    error(
        "graph-target",
        "KServe's webhook refuses a step with no target or several",
        "leave one of serviceName, nodeName and serviceUrl",
        _targets,
    ),
    error(
        "graph-node",
        "the router answers 500 for a step that leads to no node",
        "name a node of the graph",
        _nodes,
    ),
    error("graph-step-names", "KServe's webhook refuses two steps of one name", "name them apart", _step_names),
    warning(
        "graph-router",
        "KServe starts the router without a seccomp profile, which Pod Security 'restricted' refuses",
        "put the graph in a namespace with 'baseline', or enable secure-pod-defaults in Knative's config-features",
        _router,
    ),
)
