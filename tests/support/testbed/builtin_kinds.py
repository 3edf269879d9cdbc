"""Strict checks of Kubernetes' own kinds, which have no CRD, by the field tables of the official client's models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import kubernetes.client as models

GROUPS = {
    "v1": ("Namespace", "Service", "ServiceAccount", "ConfigMap", "Secret", "Pod"),
    "apps/v1": ("Deployment",),
    "batch/v1": ("Job", "CronJob"),
    "policy/v1": ("PodDisruptionBudget",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "Role", "RoleBinding", "ClusterRoleBinding"),
}
_PLAIN: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "datetime": str,
}


def is_builtin(found: dict[str, Any]) -> bool:
    return found["kind"] in GROUPS.get(found["apiVersion"], ())


def faults(found: dict[str, Any]) -> list[str]:
    """Every unknown field, missing required field and wrong type, by its path."""
    return list(_faults(found, f"V1{found['kind']}", ""))


def _faults(value: Any, type_name: str, path: str) -> Iterator[str]:
    if listed := re.fullmatch(r"[Ll]ist\[(.*)\]", type_name):
        if not isinstance(value, list):
            yield f"{path}: expected a list"
            return
        for index, item in enumerate(value):
            yield from _faults(item, listed[1], f"{path}[{index}]")
    elif mapped := re.fullmatch(r"[Dd]ict[(\[]str, (.*)[)\]]", type_name):
        for name, item in value.items() if isinstance(value, dict) else ():
            yield from _faults(item, mapped[1], f"{path}.{name}")
        if not isinstance(value, dict):
            yield f"{path}: expected a mapping"
    elif type_name in _PLAIN:
        expected = _PLAIN[type_name]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            yield f"{path}: expected {type_name}, seen {value!r}"
    elif type_name != "object":
        yield from _object_faults(value, getattr(models, type_name), path)


def _object_faults(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: expected an object"
        return
    types = {field: model.openapi_types[name] for name, field in model.attribute_map.items()}
    for field, item in value.items():
        below = f"{path}.{field}" if path else field
        if field not in types:
            yield f"{below}: unknown field"
        else:
            yield from _faults(item, types[field], below)
