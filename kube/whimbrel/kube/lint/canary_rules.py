"""A new version beside the old one: which percentages KServe and Knative take, and which they split nothing by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, number, warning
from whimbrel.kube.lint.workloads import FRAMEWORKS, KSERVE, Component, each_component, is_knative


def _canary_percent(component: Component) -> Iterator[Fault]:
    percent = number(component.spec.get("canaryTrafficPercent"))
    if percent is not None and not 0 <= percent <= 100:
        yield Fault(component.document, f"{component.path}.canaryTrafficPercent", f"{percent:g}")


def _canary_mode(component: Component) -> Iterator[Fault]:
    if "canaryTrafficPercent" in component.spec and not component.knative:
        yield Fault(component.document, f"{component.path}.canaryTrafficPercent", "a percentage in the mode Standard")


def _canary_list(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "InferenceService"):
        spec = mapping(document.object.get("spec"))
        canaries = [mapping(mapping(each).get("predictor")) for each in items(spec.get("canary"))]
        for index, fault in _canary_faults(document, mapping(spec.get("predictor")), canaries):
            yield Fault(document, f"spec.canary[{index}].predictor", fault)
        total = sum(number(mapping(each).get("trafficPercent")) or 0 for each in items(spec.get("canary")))
        if total > 100:
            yield Fault(document, "spec.canary", f"percentages of {total:g} together")


def _canary_faults(
    document: Rendered, stable: Mapping[str, Any], canaries: list[Mapping[str, Any]]
) -> Iterator[tuple[int, str]]:
    names = [stable.get("name")]
    for index, canary in enumerate(canaries):
        if is_knative(document):
            yield index, "a canary in the mode Knative"
        if not any(field in stable for field in ("model", *FRAMEWORKS)):
            yield index, "a canary beside a predictor without a model"
        if not canary.get("name") or canary["name"] in names:
            yield index, f"the name {canary.get('name')!r}"
        fixed = [f for f in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec") if f in canary]
        if fixed:
            yield index, ", ".join(fixed)
        if (number(canary.get("minReplicas")) or 0) > (number(stable.get("minReplicas")) or 1):
            yield index, "more minReplicas than the stable predictor's"
        names.append(canary.get("name"))


def _canary_unsplit(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "InferenceService"):
        if items(mapping(document.object.get("spec")).get("canary")) and not is_knative(document):
            yield Fault(document, "spec.canary", "a canary with its share")


RULES: tuple[Rule, ...] = (
    error(
        "canary-percent",
        "KServe takes any number, and Knative refuses the route",
        "write 0 to 100",
        each_component(_canary_percent),
    ),
    error(
        "canary-mode",
        "canaryTrafficPercent is ignored in the mode Standard: the new version takes all requests at once",
        "use the mode Knative",
        each_component(_canary_mode),
    ),
    error(
        "canary-list",
        "KServe's webhook takes spec.canary only in the mode Standard, beside a predictor with a model; each has a "
        "name of its own and fixed replicas, at most 100 percent together",
        "see the documentation of spec.canary; with Knative use canaryTrafficPercent",
        _canary_list,
    ),
    warning(
        "canary-not-split",
        "KServe 0.20 starts the Deployments of spec.canary, and sends them no traffic",
        "use the mode Knative and canaryTrafficPercent, or a later KServe with Gateway API",
        _canary_unsplit,
    ),
)
