"""Labels, annotations and host names by which KServe, Knative and this engine know their objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTAINER_SOURCE_LABEL = "sources.knative.dev/containerSource"
SOURCE_LABEL = "sources.knative.dev/source"
INFERENCE_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
COMPONENT_LABEL = "component"
SERVICE_LABEL = "serving.knative.dev/service"
CONFIGURATION_LABEL = "serving.knative.dev/configuration"
GENERATION_LABEL = "serving.knative.dev/configurationGeneration"
REVISION_LABEL = "serving.knative.dev/revision"
PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
STORAGE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
COMMAND = "whimbrel.dev/command"  # what to run for an image that is not this project's
TEMPLATE_DIGEST = "whimbrel.dev/template-digest"
TEMPLATE_HASH_LABEL = "pod-template-hash"

DOMAIN = "localhost"
CLUSTER_DOMAIN = "svc.cluster.local"
MODELS_MOUNT = "/mnt/models"


def host(name: str, namespace: str) -> str:
    return f"{name}.{namespace}.{DOMAIN}"


def cluster_host(name: str, namespace: str) -> str:
    return f"{name}.{namespace}.{CLUSTER_DOMAIN}"


def qualified(name: str, namespace: str) -> str:
    """How a process of a namespace is called in this engine's status, ports and logs."""
    return name if namespace == "default" else f"{name}.{namespace}"


def of(found: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name."""
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def annotations_of(found: Mapping[str, Any]) -> dict[str, str]:
    return dict(found.get("metadata", {}).get("annotations") or {})


def labels_of(found: Mapping[str, Any]) -> dict[str, str]:
    return dict(found.get("metadata", {}).get("labels") or {})
