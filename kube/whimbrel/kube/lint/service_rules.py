"""What KServe's webhook refuses in an InferenceService although its schema takes it, and what KServe silently does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

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
    each_component,
    environment,
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
        named = any(name in ("WHIMBREL_MODEL", "WHIMBREL_MODEL_NAME") for _, name, _ in environment(container))
        if ours and not named and all(argument(container, each) is None for each in ("model", "model_name")):
            yield Fault(component.document, f"{path}.args", "no --model and no --model-name")


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
    error("model-name", "KServe's webhook refuses a name inside a model", "leave it out", each_component(_model_name)),
    error(
        "container-name",
        "KServe's webhook refuses a custom component without a container of its name",
        f"name the container that serves {_CONTAINER}",
        each_component(_container_name),
    ),
    error(
        "runtime-container-name",
        "KServe finds the container of a runtime by its name; without it every InferenceService of the runtime fails",
        f"name the container that serves {_CONTAINER}",
        _runtime_container,
    ),
    error(
        "env-pythonpath", "KServe's webhook refuses the variable", "set it in the image", each_component(_python_path)
    ),
    error(
        "transformer-storage-uri",
        "KServe's webhook refuses STORAGE_URI in any container but the predictor's",
        "leave it out; the predictor has the model",
        each_component(_transformer_storage),
    ),
    error(
        "storage-uri-twice",
        "KServe's webhook refuses storageUri beside storageUris",
        "write all of them as storageUris",
        each_component(_storage_twice),
    ),
    error(
        "mount-path",
        "KServe's webhook refuses the path of a storageUris entry",
        "write an absolute path other than /, without ..",
        each_component(_mount_paths),
    ),
    error(
        "logger-mode",
        "KServe's webhook refuses the mode",
        f"write {', '.join(_LOGGER_MODES)}",
        each_component(_logger_mode),
    ),
    error(
        "transformer-workers",
        "KServe appends --workers <containerConcurrency>: that many processes start in one container",
        "add the argument --workers=1",
        each_component(_workers),
    ),
    error(
        "predictor-model-name",
        "KServe gives a custom predictor no arguments: this one does not start without its model's name",
        "add the argument --model=NAME=URI, or --model-name=NAME beside WHIMBREL_MODEL_URI",
        each_component(_predictor_name),
    ),
    warning(
        "batcher",
        "KServe's batcher answers 200 for a predictor's error, drops ce-* headers and knows V1 JSON only",
        "leave it out: this project's predictor makes batches itself",
        each_component(_batcher),
    ),
    warning(
        "resources",
        "without limits KServe sets cpu 1 and memory 2Gi, requests equal to limits",
        "state requests and limits",
        each_component(_resources),
    ),
)
