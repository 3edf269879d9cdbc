"""A `model` of an InferenceService together with the ServingRuntime that takes it, as one container; pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import names

_MODEL_FIELDS = ("resources", "readinessProbe", "livenessProbe", "ports", "image", "imagePullPolicy", "volumeMounts")


def model_container(
    service: Object, model: Mapping[str, Any], runtimes: Sequence[Object]
) -> tuple[dict[str, Any], list[Any], Object]:
    """The container, its runtime's volumes, and the runtime. Raises InputRefused where none takes the model."""
    runtime = _chosen(model, runtimes)
    text = json.dumps(runtime["spec"])
    name = service["metadata"]["name"]
    spec = json.loads(text.replace("{{.Name}}", name).replace("{{ .Name }}", name))
    container: dict[str, Any] = spec["containers"][0]
    container |= {field: copy.deepcopy(model[field]) for field in _MODEL_FIELDS if field in model}
    container["args"] = [*container.get("args", []), *model.get("args", [])]
    own = {entry["name"] for entry in model.get("env", [])}
    container["env"] = [entry for entry in container.get("env", []) if entry["name"] not in own]
    container["env"] += copy.deepcopy(model.get("env", []))
    container["envFrom"] = [*container.get("envFrom", []), *copy.deepcopy(model.get("envFrom", []))]
    return _with_model(container, model.get("storageUri")), spec.get("volumes", []), runtime


def _chosen(model: Mapping[str, Any], runtimes: Sequence[Object]) -> Object:
    if wanted := model.get("runtime"):
        found = next((each for each in runtimes if each["metadata"]["name"] == wanted), None)
        if found is None:
            raise InputRefused(f"spec.predictor.model.runtime: no ServingRuntime {wanted!r}; apply it first")
        return found
    form = model["modelFormat"]
    for runtime in runtimes:
        if not runtime["spec"].get("disabled") and any(
            _takes(each, form) for each in runtime["spec"].get("supportedModelFormats", [])
        ):
            return runtime
    raise InputRefused(
        f"spec.predictor.model.modelFormat: no ServingRuntime with autoSelect supports {form.get('name')!r}; "
        "apply one, or name it in spec.predictor.model.runtime"
    )


def _takes(supported: Mapping[str, Any], form: Mapping[str, Any]) -> bool:
    same_version = not form.get("version") or str(form["version"]) == str(supported.get("version"))
    return bool(supported.get("autoSelect")) and supported["name"] == form.get("name") and same_version


def _with_model(container: dict[str, Any], uri: str | None) -> dict[str, Any]:
    """Where a cluster's storage initializer mounts the model: here the process takes it from its place itself."""
    if uri is None:
        return container
    text = json.dumps({field: container[field] for field in ("args", "env")})
    place = uri.removeprefix("file://") if uri.startswith("file://") else uri
    text = text.replace(f"file://{names.MODELS_MOUNT}", json.dumps(uri)[1:-1])
    located: dict[str, Any] = json.loads(text.replace(names.MODELS_MOUNT, json.dumps(place)[1:-1]))
    return container | located
