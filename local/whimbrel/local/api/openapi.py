"""As much OpenAPI as kubectl asks for: that PATCH takes `fieldValidation`, and for `explain` the fields of the table.

The schemas say which fields are honoured and which accepted only; what an object may hold is checked when it comes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from whimbrel.local import fields
from whimbrel.local.api.discovery import VERSION
from whimbrel.local.api.kinds import KINDS, Kind
from whimbrel.local.api.patches import forms

_REFERENCE = "#/components/schemas/"
_INTEGERS = frozenset(
    (
        *("minReplicas", "maxReplicas", "scaleTarget", "containerConcurrency", "timeout", "timeoutSeconds", "retry"),
        *("canaryTrafficPercent", "containerPort", "periodSeconds", "failureThreshold", "replicas", "percent"),
        *("progressDeadlineSeconds", "minReadySeconds", "revisionHistoryLimit"),
    )
)
_BOOLEANS = frozenset(("automountServiceAccountToken", "enableServiceLinks"))
_MAPS = frozenset(
    ("labels", "annotations", "attributes", "extensions", "matchLabels", "data", "stringData", "emptyDir", "resources")
)
_LISTS = frozenset(("args", "command", "envFrom", "volumeMounts", "filters", "rules"))
_HONOURED, _NOT_ENFORCED = "Honoured on one machine.", "Accepted, but not enforced on one machine."
_PARTLY = "Known by the fields below; all others are refused."
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
# kubectl looks up every field of metadata that it changes in a core kind, to know how lists are merged.
_OF_METADATA: dict[str, Any] = {
    **{name: {"type": "string"} for name in ("name", "namespace", "generateName", "resourceVersion", "uid")},
    **dict.fromkeys(("annotations", "labels"), _STRINGS),
    "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
    "ownerReferences": {"type": "array", "items": {"type": "object"}},
}
_METADATA = "Standard object's metadata: name, namespace, labels, annotations, finalizers, ownerReferences."


def index() -> dict[str, Any]:
    """`/openapi/v3`: where each group's document is; the hash lets clients keep it."""
    paths = {}
    for group, version in dict.fromkeys((kind.group, kind.version) for kind in KINDS):
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        digest = hashlib.sha256(json.dumps(document(group, version)).encode()).hexdigest()[:32].upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


@cache
def document(group: str, version: str) -> dict[str, Any] | None:
    """The OpenAPI 3 document of one group and version, None where nothing is served."""
    found = [kind for kind in KINDS if (kind.group, kind.version) == (group, version)]
    if not found:
        return None
    paths: dict[str, Any] = {}
    for kind in found:
        paths |= _paths(kind)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes, on one machine", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": {_schema_name(kind): _schema(kind) for kind in found}},
    }


def _schema_name(kind: Kind) -> str:
    reverse = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{reverse}.{kind.version}.{kind.kind}"


def _paths(kind: Kind) -> dict[str, Any]:
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    collection = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"
    of_all = {f"{base}/{kind.plural}": {"get": _operation(kind, "list")}} if kind.namespaced else {}
    written = {"get": _operation(kind, "list"), "post": _operation(kind, "post", "application/json")}
    one = {
        "get": _operation(kind, "get"),
        "put": _operation(kind, "put", "application/json"),
        "patch": _operation(kind, "patch", *forms(kind)),
        "delete": _operation(kind, "delete"),
    }
    return {**of_all, collection: written, f"{collection}/{{name}}": one}


def _operation(kind: Kind, action: str, *bodies: str) -> dict[str, Any]:
    described = {"group": kind.group, "kind": kind.kind, "version": kind.version}
    reference = {"schema": {"$ref": _REFERENCE + _schema_name(kind)}}
    operation: dict[str, Any] = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": described,
        "responses": {"200": {"description": "OK", "content": {"application/json": reference}}},
    }
    if bodies:
        names = ("dryRun", "fieldManager", "fieldValidation", *(("force",) if action == "patch" else ()))
        operation["parameters"] = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
        operation["requestBody"] = {"content": dict.fromkeys(bodies, reference)}
    return operation


def _schema(kind: Kind) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": f"Always {kind.api_version}."},
        "kind": {"type": "string", "description": f"Always {kind.kind}."},
        "metadata": {"type": "object", "description": _METADATA, "properties": _OF_METADATA},
    }
    root = {"type": "object", "description": _description(kind), "properties": properties}
    if fields.API_VERSIONS.get(kind.kind) == kind.api_version:
        for patterns, text in ((fields.HONOURED, _HONOURED), (fields.NOT_ENFORCED, _NOT_ENFORCED)):
            for pattern in patterns[kind.kind]:
                _add(root, pattern.split("."), text)
    if kind.has_status:
        properties["status"] = {"type": "object", "description": "What was found, with conditions."}
    described = {"group": kind.group, "kind": kind.kind, "version": kind.version}
    return {**root, "x-kubernetes-group-version-kind": [described]}


def _description(kind: Kind) -> str:
    return f"{kind.kind} ({kind.api_version}), as far as one machine knows it."


def _add(schema: dict[str, Any], names: list[str], text: str) -> None:
    """One pattern of the table as nested properties: `a[].b` is a list of objects with a field b."""
    name, rest = names[0], names[1:]
    plain = name.removesuffix("[]")
    properties = schema.setdefault("properties", {})
    if not rest:
        properties.setdefault(plain, {**_leaf(plain), "description": text})
        return
    if name.endswith("[]"):
        below = properties.setdefault(plain, {"type": "array", "description": _PARTLY, "items": {"type": "object"}})
        _add(below.setdefault("items", {"type": "object"}), rest, text)
        return
    below = properties.setdefault(plain, {"description": _PARTLY})
    below["type"] = "object"
    _add(below, rest, text)


def _leaf(name: str) -> dict[str, Any]:
    if name in _INTEGERS:
        return {"type": "integer"}
    if name in _BOOLEANS:
        return {"type": "boolean"}
    if name in _LISTS:
        return {"type": "array", "items": {"type": "string" if name in ("args", "command") else "object"}}
    if name in _MAPS:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if name.endswith(("Probe", "Context", "Ref")):
        return {"type": "object"}
    return {"type": "string"}
