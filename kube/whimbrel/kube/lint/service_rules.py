"""What KServe's webhook refuses in an InferenceService although its schema takes it, and what KServe silently does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, annotations_of, error, items, mapping, number, warning
from whimbrel.kube.lint.workloads import (
    FRAMEWORKS,
    KNATIVE_NAMES,
    KSERVE,
    MODE,
    STANDARD_NAMES,
    Component,
    argument,
    components,
    environment,
    is_knative,
    pods,
)

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LOGGER_MODES = ("all", "request", "response")
_CONTAINER = "kserve-container"


def _names(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "InferenceService", "InferenceGraph"):
        name = str(document.object["metadata"]["name"])
        if not _NAME.fullmatch(name):
            yield Fault(document, "metadata.name", repr(name))


def _modes(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "InferenceService", "InferenceGraph"):
        mode = annotations_of(document.object).get(MODE, "Knative")
        if mode not in (*KNATIVE_NAMES, *STANDARD_NAMES, "ModelMesh"):
            yield Fault(document, f"metadata.annotations[{MODE}]", repr(mode))


def _implementations(manifests: Manifests) -> Iterator[Fault]:
    for component in components(manifests):
        found = [field for field in ("model", "art", *FRAMEWORKS) if field in component.spec]
        if items(component.spec.get("containers")) and not (component.role == "predictor" and "model" in found):
            found.append("containers")
        if len(found) != 1:
            yield Fault(component.document, component.path, ", ".join(found) or "none")


def _model_name(component: Component) -> Iterator[Fault]:
    if component.path.startswith("spec.canary"):
        return  # the schema wants it there
    for field in ("model", *FRAMEWORKS):
        if "name" in mapping(component.spec.get(field)):
            yield Fault(component.document, f"{component.path}.{field}.name", repr(component.spec[field]["name"]))


def _container_name(component: Component) -> Iterator[Fault]:
    containers = items(component.spec.get("containers"))
    if containers and "model" not in component.spec and all(mapping(c).get("name") != _CONTAINER for c in containers):
        names = ", ".join(repr(mapping(container).get("name")) for container in containers)
        yield Fault(component.document, f"{component.path}.containers", f"containers {names}")


def _python_path(component: Component) -> Iterator[Fault]:
    for path, container in _containers(component):
        for index, name, _ in environment(container):
            if name == "PYTHONPATH":
                yield Fault(component.document, f"{path}.env[{index}]", name)


def _transformer_storage(component: Component) -> Iterator[Fault]:
    for path, container in _containers(component):
        for index, name, _ in environment(container):
            if name == "STORAGE_URI" and (component.role == "transformer" or container.get("name") != _CONTAINER):
                yield Fault(component.document, f"{path}.env[{index}]", name)


def _storage_twice(component: Component) -> Iterator[Fault]:
    single = [field for field in ("model", *FRAMEWORKS) if "storageUri" in mapping(component.spec.get(field))]
    if single and "storageUris" in component.spec:
        yield Fault(component.document, f"{component.path}.storageUris", "storageUris, and a storageUri")


def _mount_paths(component: Component) -> Iterator[Fault]:
    for index, storage in enumerate(items(component.spec.get("storageUris"))):
        path = mapping(storage).get("mountPath")
        if path is not None and (not str(path).startswith("/") or path == "/" or ".." in str(path).split("/")):
            yield Fault(component.document, f"{component.path}.storageUris[{index}].mountPath", repr(path))


def _logger_mode(component: Component) -> Iterator[Fault]:
    mode = mapping(component.spec.get("logger")).get("mode")
    if mode is not None and mode not in _LOGGER_MODES:
        yield Fault(component.document, f"{component.path}.logger.mode", repr(mode))


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


def _workers(component: Component) -> Iterator[Fault]:
    """With one container at a concurrency of 1 KServe adds --workers 1, which is right."""
    concurrency = number(component.spec.get("containerConcurrency"))
    if component.role != "transformer" or concurrency in (None, 1):
        return
    for path, container in _containers(component):
        if container.get("name") == _CONTAINER and argument(container, "workers") is None:
            yield Fault(
                component.document, f"{path}.args", f"no --workers, and a containerConcurrency of {concurrency:g}"
            )


def _predictor_name(component: Component) -> Iterator[Fault]:
    for path, container in _containers(component):
        ours = component.role == "predictor" and "/predictors" in str(container.get("image", ""))
        named = [name for _, name, _ in environment(container) if name == "WHIMBREL_MODEL_NAME"]
        if ours and not named and argument(container, "model_name") is None:
            yield Fault(component.document, f"{path}.args", "no --model-name")


def _batcher(component: Component) -> Iterator[Fault]:
    if "batcher" in component.spec:
        yield Fault(component.document, f"{component.path}.batcher", "a batcher")


def _resources(component: Component) -> Iterator[Fault]:
    for path, container in _containers(component):
        if "containers[" in path and not mapping(container.get("resources")).get("limits"):
            yield Fault(component.document, f"{path}.resources", "no limits")


def _runtime_container(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.of(KSERVE, "ServingRuntime", "ClusterServingRuntime"):
        spec = mapping(document.object.get("spec"))
        names = [mapping(container).get("name") for container in items(spec.get("containers"))]
        if _CONTAINER not in names:
            yield Fault(document, "spec.containers", ", ".join(map(repr, names)) or "none")


def _containers(component: Component) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wanted = {component.path}
    for pod in pods(Manifests((component.document,))):
        if pod.path in wanted:
            yield from pod.containers()


def _each(check: Callable[[Component], Iterator[Fault]]) -> Callable[[Manifests], Iterator[Fault]]:
    return lambda manifests: (fault for component in components(manifests) for fault in check(component))


RULES: tuple[Rule, ...] = (
    error(
        "service-name",
        "KServe's webhook refuses the name",
        "begin with a letter, go on with lower case letters, digits and hyphens, and end with no hyphen",
        _names,
    ),
    error(
        "deployment-mode",
        "an unknown mode is ignored without a word, and the cluster's default is taken",
        "write Knative or Standard",
        _modes,
    ),
    error(
        "one-implementation",
        "exactly one implementation a component; without any, KServe's defaulting webhook panics",
        "leave one of model, a framework, or containers",
        _implementations,
    ),
    error("model-name", "KServe's webhook refuses a name inside a model", "leave it out", _each(_model_name)),
    error(
        "container-name",
        "KServe's webhook refuses a custom component without a container of its name",
        f"name the container that serves {_CONTAINER}",
        _each(_container_name),
    ),
    error(
        "runtime-container-name",
        "KServe finds the container of a runtime by its name; without it every InferenceService of the runtime fails",
        f"name the container that serves {_CONTAINER}",
        _runtime_container,
    ),
    error("env-pythonpath", "KServe's webhook refuses the variable", "set it in the image", _each(_python_path)),
    error(
        "transformer-storage-uri",
        "KServe's webhook refuses STORAGE_URI in any container but the predictor's",
        "leave it out; the predictor has the model",
        _each(_transformer_storage),
    ),
    error(
        "storage-uri-twice",
        "KServe's webhook refuses storageUri beside storageUris",
        "write all of them as storageUris",
        _each(_storage_twice),
    ),
    error(
        "mount-path",
        "KServe's webhook refuses the path of a storageUris entry",
        "write an absolute path other than /, without ..",
        _each(_mount_paths),
    ),
    error("logger-mode", "KServe's webhook refuses the mode", f"write {', '.join(_LOGGER_MODES)}", _each(_logger_mode)),
    error(
        "canary-percent",
        "KServe takes any number, and Knative refuses the route",
        "write 0 to 100",
        _each(_canary_percent),
    ),
    error(
        "canary-mode",
        "canaryTrafficPercent is ignored in the mode Standard: the new version takes all requests at once",
        "use the mode Knative",
        _each(_canary_mode),
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
    error(
        "transformer-workers",
        "KServe appends --workers <containerConcurrency>: that many processes start in one container",
        "add the argument --workers=1",
        _each(_workers),
    ),
    error(
        "predictor-model-name",
        "KServe gives a custom predictor no arguments: this one does not start without its model's name",
        "add the argument --model-name=NAME",
        _each(_predictor_name),
    ),
    warning(
        "batcher",
        "KServe's batcher answers 200 for a predictor's error, drops ce-* headers and knows V1 JSON only",
        "leave it out: this project's predictor makes batches itself",
        _each(_batcher),
    ),
    warning(
        "resources",
        "without limits KServe sets cpu 1 and memory 2Gi, requests equal to limits",
        "state requests and limits",
        _each(_resources),
    ),
)
