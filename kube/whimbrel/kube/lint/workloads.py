"""Where pods lie: the components of an InferenceService, and the pod of every other object that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.rule import Fault, Manifests, annotations_of, items, mapping

KSERVE = "serving.kserve.io"
KNATIVE = "serving.knative.dev"
EVENTING = "eventing.knative.dev"
SOURCES = "sources.knative.dev"

MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
STANDARD_NAMES = ("Standard", "RawDeployment")
KNATIVE_NAMES = ("Knative", "Serverless")

# Besides `model`: one of these is a predictor's implementation.
FRAMEWORKS = (
    "huggingface",
    "lightgbm",
    "onnx",
    "paddle",
    "pmml",
    "pytorch",
    "sklearn",
    "tensorflow",
    "triton",
    "xgboost",
)

_POD_AT = {
    ("apps", "Deployment"): ("spec", "template", "spec"),
    ("apps", "StatefulSet"): ("spec", "template", "spec"),
    ("apps", "DaemonSet"): ("spec", "template", "spec"),
    ("batch", "Job"): ("spec", "template", "spec"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template", "spec"),
    ("", "Pod"): ("spec",),
    (SOURCES, "ContainerSource"): ("spec", "template", "spec"),
    (KNATIVE, "Service"): ("spec", "template", "spec"),
    (KNATIVE, "Configuration"): ("spec", "template", "spec"),
    (KSERVE, "ServingRuntime"): ("spec",),
    (KSERVE, "ClusterServingRuntime"): ("spec",),
}


@dataclass(frozen=True, slots=True)
class Component:
    """A predictor, transformer, explainer or Standard canary of an InferenceService."""

    document: Rendered
    role: str
    path: str
    spec: Mapping[str, Any]

    @property
    def knative(self) -> bool:
        return is_knative(self.document)

    @property
    def annotations(self) -> Mapping[str, Any]:
        """Its own beat the InferenceService's."""
        return {**annotations_of(self.document.object), **mapping(self.spec.get("annotations"))}


@dataclass(frozen=True, slots=True)
class Pod:
    """`knative`: Knative's webhook judges it too."""

    document: Rendered
    path: str
    spec: Mapping[str, Any]
    knative: bool

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for field in ("initContainers", "containers"):
            for index, container in enumerate(items(self.spec.get(field))):
                yield f"{self.path}.{field}[{index}]", mapping(container)
        for field in ("model", *FRAMEWORKS):
            if isinstance(self.spec.get(field), Mapping):
                yield f"{self.path}.{field}", self.spec[field]


def is_knative(document: Rendered) -> bool:
    """An InferenceService runs on Knative unless its annotation says otherwise."""
    return annotations_of(document.object).get(MODE) not in STANDARD_NAMES


def components(manifests: Manifests) -> Iterator[Component]:
    for document in manifests.of(KSERVE, "InferenceService"):
        spec = mapping(document.object.get("spec"))
        for role in ("predictor", "transformer", "explainer"):
            if role in spec:
                yield Component(document, role, f"spec.{role}", mapping(spec[role]))
        for index, canary in enumerate(items(spec.get("canary"))):
            predictor = mapping(mapping(canary).get("predictor"))
            yield Component(document, "predictor", f"spec.canary[{index}].predictor", predictor)


def each_component(check: Callable[[Component], Iterator[Fault]]) -> Callable[[Manifests], Iterator[Fault]]:
    """The check of all components from the check of one."""
    return lambda manifests: (fault for component in components(manifests) for fault in check(component))


def pods(manifests: Manifests) -> Iterator[Pod]:
    for component in components(manifests):
        yield Pod(component.document, component.path, component.spec, component.knative)
    for document in manifests.documents:
        group = str(document.object["apiVersion"]).rpartition("/")[0]
        path = _POD_AT.get((group, document.object["kind"]))
        if path is not None:
            spec: Mapping[str, Any] = document.object
            for part in path:
                spec = mapping(spec.get(part))
            yield Pod(document, ".".join(path), spec, group == KNATIVE)


def environment(container: Mapping[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Index, name and value of each variable."""
    for index, entry in enumerate(items(container.get("env"))):
        yield index, str(mapping(entry).get("name", "")), mapping(entry).get("value")


def argument(container: Mapping[str, Any], name: str) -> str | None:
    """The first of its values; None where it is not given."""
    return next(arguments(container, name), None)


def arguments(container: Mapping[str, Any], name: str) -> Iterator[str]:
    """Each value of `--name=VALUE` or `--name VALUE`, hyphens or underscores alike; "" where it has none."""
    words = [str(word) for word in items(container.get("args"))]
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:].replace("-", "_") == name.replace("-", "_"):
            following = words[index + 1] if index + 1 < len(words) else ""
            yield value if equals else "" if following.startswith("--") else following
