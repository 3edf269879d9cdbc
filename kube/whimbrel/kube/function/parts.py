"""The parts that every pod of a function has alike: container, security, probes, scratch space; pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from whimbrel.kube.function.model import Function, Resources

Object = dict[str, Any]

PORT = 8080
MANAGED_BY = {"app.kubernetes.io/managed-by": "whimbrel"}
_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SMALL: Object = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}


def resource(
    function: Function,
    api_version: str,
    kind: str,
    suffix: str,
    *,
    spec: Object,
    more_labels: Mapping[str, str] | None = None,
) -> Object:
    """One object named after the function, with its labels."""
    metadata = {"name": function.name + suffix, "labels": labels(function, more_labels or {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def labels(function: Function, more: Mapping[str, str]) -> dict[str, str]:
    return {**function.labels, "app.kubernetes.io/part-of": function.name, **MANAGED_BY, **more}


def container(
    function: Function,
    room: str,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    ready: str,
    start_seconds: int = 30,
    resources: Object | None = None,
    own_environment: bool = False,
) -> Object:
    """A container of the image of `room`. `own_environment`: with the variables and secrets of the function file."""
    return {
        "name": name,
        "image": _image(function, room),
        "args": list(arguments),
        "envFrom": [
            {"configMapRef": {"name": function.settings}},
            {"secretRef": {"name": function.credentials}},
        ],
        "env": _environment(function, {"WHIMBREL_HTTP_HOST": "0.0.0.0", **environment}, own_environment),  # noqa: S104
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": ready, "port": PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": start_seconds,
        },
        "resources": copy.deepcopy(resources or _SMALL),
        "securityContext": copy.deepcopy(_SECURITY),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }


def liveness(delay_seconds: int) -> Object:
    check = {"httpGet": {"path": "/v2/health/live", "port": PORT}, "initialDelaySeconds": delay_seconds}
    return {**check, "periodSeconds": 10, "timeoutSeconds": 5}


def quantities(chosen: Resources, cpu: str, memory: str, others: Mapping[str, str] | None = None) -> Object:
    """What is promised is what may be taken, so a node is never overcommitted with models."""
    limits = {"cpu": chosen.cpu or cpu, "memory": chosen.memory or memory, **(others or {})}
    return {"requests": dict(limits), "limits": dict(limits)}


def scratch(size: str, *, in_memory: bool = True) -> list[Object]:
    """The one folder that can be written to."""
    empty: Object = {"sizeLimit": size}
    return [{"name": "tmp", "emptyDir": {"medium": "Memory", **empty} if in_memory else empty}]


def reference(api_version: str, kind: str, name: str) -> Object:
    return {"ref": {"apiVersion": api_version, "kind": kind, "name": name}}


def secret_entry(name: str, secret: str, key: str) -> Object:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _environment(function: Function, fixed: Mapping[str, str], own: bool) -> list[Object]:
    entries: list[Object] = [{"name": name, "value": value} for name, value in fixed.items()]
    if own:
        entries += [{"name": name, "value": value} for name, value in function.environment.items()]
        entries += [secret_entry(name, each.secret, each.key) for name, each in function.secrets.items()]
    return entries


def _image(function: Function, room: str) -> str:
    prefix = f"{function.images.registry}/" if function.images.registry else ""
    return f"{prefix}whimbrel/{room}:{function.images.tag or _version()}"


def _version() -> str:
    from importlib import metadata

    return metadata.version("whimbrel")
