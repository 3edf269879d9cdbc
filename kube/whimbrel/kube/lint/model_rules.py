"""Models and the paths that lead to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, namespace_of
from whimbrel.kube.lint.workloads import EVENTING, KSERVE, arguments, components, environment

_PATH = re.compile(r"/events/([^/?]+)|/v1/models/([^/?]+):predict")


def _unserved(manifests: Manifests) -> Iterator[Fault]:
    """Triggers to a model that the transformer of their InferenceService does not serve."""
    served = _served(manifests)
    for document in manifests.of(EVENTING, "Trigger"):
        subscriber = mapping(mapping(document.object.get("spec")).get("subscriber"))
        ref, path = mapping(subscriber.get("ref")), _PATH.fullmatch(str(subscriber.get("uri")))
        models = served.get((str(ref.get("namespace") or namespace_of(document.object)), str(ref.get("name"))))
        if path is None or models is None or not str(ref.get("apiVersion")).startswith(f"{KSERVE}/"):
            continue
        model = path[1] or path[2]
        if model not in models:
            yield Fault(document, "spec.subscriber.uri", f"{model!r}, and a transformer of {', '.join(sorted(models))}")


def _served(manifests: Manifests) -> dict[tuple[str, str], set[str]]:
    """The models of each transformer of ours, by namespace and name of its InferenceService."""
    found: dict[tuple[str, str], set[str]] = {}
    for component in components(manifests):
        owner = component.document.object
        for container in map(mapping, items(component.spec.get("containers"))):
            if component.role == "transformer" and "/transformers" in str(container.get("image", "")):
                name = str(owner["metadata"]["name"])
                found[str(namespace_of(owner)), name] = {name, *_more_models(container)}
    return found


def _more_models(container: Mapping[str, Any]) -> Iterator[str]:
    entries = list(arguments(container, "model"))
    for _, name, value in environment(container):
        if name == "WHIMBREL_MODEL":
            entries += str(value).splitlines()
    for entry in entries:
        yield entry.partition("=")[0].strip()


RULES: tuple[Rule, ...] = (
    error(
        "trigger-model",
        "the transformer answers 404 for a model that it does not serve: each event is tried again, then a dead letter",
        "add --model=NAME to the transformer's arguments, or mend the path",
        _unserved,
    ),
)
