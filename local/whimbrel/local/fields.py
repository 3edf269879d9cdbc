"""Which fields of which kinds the one-machine engine honours: one table, and everything else is refused by its path.

A path ends at what is taken as a whole: everything below it is honoured (or not enforced) with it. `[]` stands for
every item of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused

API_VERSIONS = {
    "InferenceService": "serving.kserve.io/v1beta1",
    "Service": "serving.knative.dev/v1",
    "Broker": "eventing.knative.dev/v1",
    "Trigger": "eventing.knative.dev/v1",
    "ContainerSource": "sources.knative.dev/v1",
    "SinkBinding": "sources.knative.dev/v1",
    "Deployment": "apps/v1",
    "ServingRuntime": "serving.kserve.io/v1alpha1",
    "ClusterServingRuntime": "serving.kserve.io/v1alpha1",
    "ModelRollout": "rollout.whimbrel.dev/v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "ServiceAccount": "v1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "ClusterStorageContainer": "serving.kserve.io/v1alpha1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
}

_METADATA = ("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations")

_CONTAINER_HONOURED = (
    *("name", "image", "command", "args", "envFrom"),
    *("env[].name", "env[].value", "env[].valueFrom.configMapKeyRef", "env[].valueFrom.secretKeyRef"),
    *("ports[].name", "ports[].containerPort", "ports[].protocol"),
    *(f"readinessProbe.{field}" for field in ("httpGet.path", "httpGet.port", "periodSeconds", "timeoutSeconds")),
    "readinessProbe.failureThreshold",
)
_CONTAINER_NOT_ENFORCED = (
    *("imagePullPolicy", "livenessProbe", "startupProbe", "resources", "securityContext", "volumeMounts"),
    *(f"readinessProbe.{field}" for field in ("initialDelaySeconds", "successThreshold", "httpGet.scheme")),
    *("terminationMessagePath", "terminationMessagePolicy", "readinessProbe.tcpSocket"),
)

# Of the pods that Knative Serving does not make: it refuses both.
_PLAIN_CONTAINER_HONOURED = ("env[].valueFrom.fieldRef",)
_PLAIN_CONTAINER_NOT_ENFORCED = ("lifecycle",)

_POD_HONOURED = ("automountServiceAccountToken",)  # true: it is given KUBECONFIG
_POD_NOT_ENFORCED = (
    *("enableServiceLinks", "serviceAccountName"),
    *("terminationGracePeriodSeconds", "volumes[].name", "volumes[].emptyDir"),
)

_COMPONENT_HONOURED = (
    *("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "containerConcurrency", "timeout"),
    *("canaryTrafficPercent", "labels", "annotations"),
)
_MODEL_HONOURED = (
    *("modelFormat", "runtime", "storageUri", "protocolVersion"),
    *(field for field in _CONTAINER_HONOURED if field not in ("name", "command")),
)
_RUNTIME_HONOURED = ("supportedModelFormats", "disabled", "multiModel", "protocolVersions")

_REFERENCE = ("ref.apiVersion", "ref.kind", "ref.name", "ref.namespace", "uri")
_DELIVERY = (
    *("delivery.retry", "delivery.backoffPolicy", "delivery.backoffDelay", "delivery.timeout"),
    *("delivery.retryAfterMax", *(f"delivery.deadLetterSink.{field}" for field in _REFERENCE)),
)


def _under(prefix: str, *fields: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{field}" for field in fields)


def _pod(prefix: str) -> tuple[str, ...]:
    return _under(f"{prefix}.containers[]", *_CONTAINER_HONOURED) + _under(prefix, *_POD_HONOURED)


def _pod_not_enforced(prefix: str) -> tuple[str, ...]:
    return _under(f"{prefix}.containers[]", *_CONTAINER_NOT_ENFORCED) + _under(prefix, *_POD_NOT_ENFORCED)


def _plain_pod(prefix: str) -> tuple[str, ...]:
    return _pod(prefix) + _under(f"{prefix}.containers[]", *_PLAIN_CONTAINER_HONOURED)


def _plain_pod_not_enforced(prefix: str) -> tuple[str, ...]:
    return _pod_not_enforced(prefix) + _under(f"{prefix}.containers[]", *_PLAIN_CONTAINER_NOT_ENFORCED)


_COMPONENTS = ("spec.predictor", "spec.transformer")
_VERSION = ("version", "uri", "digest", "attestations")

# Kinds of which nothing is done here, by the fields that say what a cluster would do.
_STORED: dict[str, tuple[str, ...]] = {
    "ServiceAccount": ("secrets", "imagePullSecrets", "automountServiceAccountToken"),
    "ClusterRole": ("rules", "aggregationRule"),
    "ClusterRoleBinding": ("subjects", "roleRef"),
    "Role": ("rules",),
    "RoleBinding": ("subjects", "roleRef"),
    "NetworkPolicy": ("spec",),
    "PodDisruptionBudget": ("spec",),
    "ClusterStorageContainer": ("spec", "workloadType", "disabled"),
    "PrometheusRule": ("spec",),
    "CustomResourceDefinition": ("spec",),
}

HONOURED: dict[str, tuple[str, ...]] = {
    "InferenceService": (
        *(path for component in _COMPONENTS for path in _pod(component)),
        *(path for component in _COMPONENTS for path in _under(component, *_COMPONENT_HONOURED)),
        *_under("spec.predictor.model", *_MODEL_HONOURED),
    ),
    "Service": (
        *_pod("spec.template.spec"),
        *_under("spec.template.spec", "timeoutSeconds", "containerConcurrency"),
        *_under("spec.template.metadata", "labels", "annotations"),
        *_under("spec.traffic[]", "latestRevision", "percent", "revisionName", "tag"),
    ),
    "Broker": _under("spec", *_DELIVERY),
    "Trigger": (
        *_under("spec", "broker", "filter.attributes", "filters", *_DELIVERY),
        *_under("spec.subscriber", *_REFERENCE),
    ),
    "ContainerSource": (
        *_plain_pod("spec.template.spec"),
        *_under("spec.template.metadata", "labels", "annotations"),
        *_under("spec.sink", *_REFERENCE),
        "spec.ceOverrides.extensions",
    ),
    "SinkBinding": (
        *_under("spec.sink", *_REFERENCE),
        "spec.ceOverrides.extensions",
        *_under("spec.subject", "apiVersion", "kind", "name", "selector.matchLabels"),
    ),
    "Deployment": (
        *_plain_pod("spec.template.spec"),
        *_under("spec.template.metadata", "labels", "annotations"),
        *_under("spec", "replicas", "selector.matchLabels", "progressDeadlineSeconds", "revisionHistoryLimit"),
        *_under("spec.strategy", "type", "rollingUpdate.maxSurge", "rollingUpdate.maxUnavailable"),
    ),
    "ServingRuntime": (*_pod("spec"), *_under("spec", *_RUNTIME_HONOURED)),
    "ClusterServingRuntime": (*_pod("spec"), *_under("spec", *_RUNTIME_HONOURED)),
    "ModelRollout": (
        *_under("spec", "model", "inferenceService", "pointer", "knownObjects", "evidence", "policy", "paused"),
        *_under("spec", "decision", "forced"),
        *_under("spec.candidate", *_VERSION),
        *_under("spec.champion", *_VERSION),
    ),
    "ConfigMap": ("data",),
    "Secret": ("data", "stringData", "type"),
    **dict.fromkeys(_STORED, ()),
}

NOT_ENFORCED: dict[str, tuple[str, ...]] = {
    "InferenceService": (
        *(path for component in _COMPONENTS for path in _pod_not_enforced(component)),
        *_under("spec.predictor.model", *_CONTAINER_NOT_ENFORCED),
    ),
    "Service": (*_pod_not_enforced("spec.template.spec"), "spec.template.spec.responseStartTimeoutSeconds"),
    "Broker": (),
    "Trigger": (),
    "ContainerSource": _plain_pod_not_enforced("spec.template.spec"),
    "SinkBinding": (),
    "Deployment": (*_plain_pod_not_enforced("spec.template.spec"), "spec.minReadySeconds"),
    "ServingRuntime": (*_pod_not_enforced("spec"), "spec.annotations", "spec.labels"),
    "ClusterServingRuntime": (*_pod_not_enforced("spec"), "spec.annotations", "spec.labels"),
    "ModelRollout": (),
    "ConfigMap": ("immutable",),
    "Secret": ("immutable",),
    **_STORED,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Paths of an object's fields that are accepted but not enforced here, and those that are refused."""

    not_enforced: tuple[str, ...]
    refused: tuple[str, ...]


_CREATED = "creationTimestamp"


def judge(found: dict[str, Any]) -> Verdict:
    """Every field of an object of a known kind, by the table."""
    kind = found["kind"]
    honoured = {"apiVersion", "kind", *_METADATA, *HONOURED[kind]}
    not_enforced = set(NOT_ENFORCED[kind])
    seen_not_enforced, refused = [], []
    for pattern, path in _fields(found, _above(honoured | not_enforced)):
        if pattern in not_enforced:
            seen_not_enforced.append(path)
        elif pattern not in honoured:
            refused.append(path)
    return Verdict(tuple(seen_not_enforced), tuple(refused))


def check(found: Any) -> tuple[str, ...]:
    """The paths that are accepted but not enforced. Raises InputRefused that names every path that is refused."""
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict) or not found["metadata"].get("name"):
        raise InputRefused("expected an object with apiVersion, kind and metadata.name")
    kind, version = found.get("kind"), found.get("apiVersion")
    name = f"{kind} {found['metadata']['name']!r}"
    if kind not in API_VERSIONS or API_VERSIONS[kind] != version:
        known = ", ".join(sorted(f"{kind} ({version})" for kind, version in API_VERSIONS.items()))
        raise InputRefused(f"{name} of {version}: not a kind that runs on one machine; known are {known}")
    verdict = judge(found)
    if verdict.refused:
        raise InputRefused(f"{name}: not supported on one machine: {', '.join(verdict.refused)}")
    return verdict.not_enforced


def _fields(value: Any, above: set[str], pattern: str = "", path: str = "") -> Iterator[tuple[str, str]]:
    """Every field, down to where the table ends, as the table's pattern and as the path in this object."""
    if isinstance(value, dict) and pattern in above:
        for name, item in value.items():
            if name == _CREATED and item is None:
                continue  # as kubectl writes a template, in which no time is set
            yield from _fields(
                item, above, f"{pattern}.{name}" if pattern else name, f"{path}.{name}" if path else name
            )
    elif isinstance(value, list) and f"{pattern}[]" in above:
        for index, item in enumerate(value):
            yield from _fields(item, above, f"{pattern}[]", f"{path}[{index}]")
    else:
        yield pattern, path


def _above(patterns: set[str]) -> set[str]:
    """Every pattern that lies above one of the table's: `a[].b` gives ``, `a` and `a[]`."""
    found = {""}
    for pattern in patterns:
        parts = pattern.split(".")[:-1]
        for count in range(1, len(parts) + 1):
            prefix = ".".join(parts[:count])
            found |= {prefix, prefix.removesuffix("[]")}
    return found
