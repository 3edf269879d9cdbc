"""Replicas: what the deployment mode and the autoscaler make of the numbers that are written."""

from __future__ import annotations

from collections.abc import Iterator

from whimbrel.kube.lint.rule import Fault, Manifests, Rule, annotations_of, error, items, mapping, number, warning
from whimbrel.kube.lint.workloads import AUTOSCALER, KNATIVE, KSERVE, Component, components, each_component

_CLASSES = ("hpa", "keda", "external", "none")
_METRICS_OF_KPA = ("concurrency", "rps")
_METRICS_OF_HPA = ("cpu", "memory")
_PREFIX = "autoscaling.knative.dev/"
_OVERRIDDEN = {"min-scale": "minReplicas", "max-scale": "maxReplicas", "target": "scaleTarget"}


def _class(component: Component) -> str:
    """The autoscaler of a component in the mode Standard."""
    return str(component.annotations.get(AUTOSCALER, "hpa"))


def _replicas(component: Component) -> Iterator[Fault]:
    least, most = (number(component.spec.get(field)) for field in ("minReplicas", "maxReplicas"))
    if (least or 0) < 0 or (most or 0) < 0 or (least is not None and most and least > most):
        yield Fault(component.document, component.path, f"minReplicas {least}, maxReplicas {most}")


def _autoscaler_class(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "InferenceService"):
        name = annotations_of(document.object).get(AUTOSCALER)
        if name is not None and name not in _CLASSES:
            yield Fault(document, f"metadata.annotations[{AUTOSCALER}]", repr(name))


def _metric(component: Component) -> Iterator[Fault]:
    metric = component.spec.get("scaleMetric")
    if metric is None:
        return
    knative_class = component.annotations.get(f"{_PREFIX}class", "")
    if component.knative:
        allowed: tuple[str, ...] = _METRICS_OF_HPA if str(knative_class).startswith("hpa") else _METRICS_OF_KPA
    else:
        allowed = () if _class(component) == "keda" else _METRICS_OF_HPA
    if metric not in allowed:
        yield Fault(component.document, f"{component.path}.scaleMetric", repr(metric))


def _target(component: Component) -> Iterator[Fault]:
    target = number(component.spec.get("scaleTarget"))
    percent = not component.knative and _class(component) == "hpa" and component.spec.get("scaleMetric") != "memory"
    if target is not None and percent and not 1 <= target <= 100:
        yield Fault(component.document, f"{component.path}.scaleTarget", f"{target:g}")


def _clamped(component: Component) -> Iterator[Fault]:
    if not component.knative and _class(component) == "hpa" and number(component.spec.get("minReplicas")) == 0:
        yield Fault(component.document, f"{component.path}.minReplicas", "0 with the autoscaler hpa")


def _unbuffered(component: Component) -> Iterator[Fault]:
    if not component.knative and _class(component) == "keda" and number(component.spec.get("minReplicas")) == 0:
        yield Fault(component.document, f"{component.path}.minReplicas", "0 with the autoscaler keda")


def _overridden(manifests: Manifests) -> Iterator[Fault]:
    for component in components(manifests):
        for name, field in _OVERRIDDEN.items():
            own = mapping(component.spec.get("annotations"))
            if f"{_PREFIX}{name}" in own:
                yield Fault(component.document, f"{component.path}.annotations[{_PREFIX}{name}]", f"beside {field}")
    for document in manifests.of(KSERVE, "InferenceService"):
        for name, field in _OVERRIDDEN.items():
            if f"{_PREFIX}{name}" in annotations_of(document.object):
                yield Fault(document, f"metadata.annotations[{_PREFIX}{name}]", f"instead of {field}")


def _initial_zero(manifests: Manifests) -> Iterator[Fault]:
    name = f"{_PREFIX}initial-scale"
    for component in components(manifests):
        if component.knative and str(component.annotations.get(name)) == "0":
            yield Fault(component.document, f"{component.path}.annotations[{name}]", "0")
    for document in manifests.of(KNATIVE, "Service"):
        template = mapping(mapping(document.object.get("spec")).get("template"))
        if str(annotations_of(template).get(name)) == "0":
            yield Fault(document, f"spec.template.metadata.annotations[{name}]", "0")


def _budgets(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of("policy", "PodDisruptionBudget"):
        spec = mapping(document.object.get("spec"))
        labels = mapping(mapping(spec.get("selector")).get("matchLabels"))
        listed = items(mapping(spec.get("selector")).get("matchExpressions"))
        keys = [*labels, *(mapping(each).get("key") for each in listed)]
        if "minAvailable" in spec and any(str(key).startswith(KNATIVE) for key in keys):
            yield Fault(document, "spec.minAvailable", str(spec["minAvailable"]))


RULES: tuple[Rule, ...] = (
    error(
        "replicas",
        "KServe's webhook refuses the numbers",
        "write 0 <= minReplicas <= maxReplicas; a maxReplicas of 0 is no limit",
        each_component(_replicas),
    ),
    error("autoscaler-class", "KServe's webhook refuses it", f"write one of {', '.join(_CLASSES)}", _autoscaler_class),
    error(
        "scale-metric",
        "the autoscaler does not know the metric",
        "with Knative write concurrency or rps, in the mode Standard with hpa cpu or memory, with keda none: it has "
        "autoScaling.metrics",
        each_component(_metric),
    ),
    error(
        "scale-target",
        "KServe's webhook refuses the target of an hpa: it is a percentage",
        "write 1 to 100",
        each_component(_target),
    ),
    warning(
        "scale-to-zero-clamped",
        "in the mode Standard with hpa, 0 replicas become 1 without a word",
        "write 1, or use the mode Knative",
        each_component(_clamped),
    ),
    warning(
        "scale-to-zero-unbuffered",
        "in the mode Standard with keda nothing holds the requests that meet no replica: they fail",
        "write 1, or use the mode Knative",
        each_component(_unbuffered),
    ),
    warning(
        "scale-annotation",
        "KServe replaces the annotation by the field of the component",
        "set minReplicas, maxReplicas and scaleTarget",
        _overridden,
    ),
    warning(
        "initial-scale-zero",
        "Knative refuses an initial scale of 0 unless config-autoscaler allows it",
        "set allow-zero-initial-scale in the ConfigMap config-autoscaler of knative-serving, or leave it out",
        _initial_zero,
    ),
    error(
        "disruption-budget",
        "a budget with minAvailable over pods that scale to zero keeps the last ones from ever leaving a node",
        "write maxUnavailable",
        _budgets,
    ),
)
