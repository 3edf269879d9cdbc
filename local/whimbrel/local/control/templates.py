"""What pods are made from: revisions and sources with what Knative adds to them, and a pod of any template; pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.control import names, serving
from whimbrel.local.control.world import owner_reference

_TIMEOUT_SECONDS = 300  # Knative's
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own, which spell no words


def of_revision(revision: Object) -> dict[str, Any]:
    """A pod's, with what Knative tells every container, and the name that a container has where nothing names it."""
    name = revision["metadata"]["name"]
    service = names.labels_of(revision)[names.SERVICE_LABEL]
    given = [
        {"name": "K_SERVICE", "value": service},
        {"name": "K_CONFIGURATION", "value": service},
        {"name": "K_REVISION", "value": name},
    ]
    # As long as a request may take, one that is being answered is waited for.
    spec = revision["spec"] | {
        "containers": [{"name": _container_name(revision), **each} for each in revision["spec"]["containers"]],
        "terminationGracePeriodSeconds": revision["spec"].get("timeoutSeconds", _TIMEOUT_SECONDS),
    }
    metadata = {
        "labels": names.labels_of(revision) | {names.REVISION_LABEL: name},
        "annotations": {k: v for k, v in names.annotations_of(revision).items() if k != names.TEMPLATE_DIGEST},
    }
    return serving.with_environment({"metadata": metadata, "spec": spec}, given)


def of_source(source: Object) -> dict[str, Any]:
    """With the names that Knative gives to containers of a ContainerSource where nothing names them."""
    template, name = source["spec"]["template"], source["metadata"]["name"]
    containers = [{"name": f"{name}-{i}", **each} for i, each in enumerate(template["spec"]["containers"])]
    return {**template, "spec": {**template["spec"], "containers": containers}}


def pod(owner: Object, prefix: str, template: Mapping[str, Any], digest: str) -> Object:
    """A new one of this template, named as a ReplicaSet names it."""
    suffix = "".join(secrets.choice(_NAME_LETTERS) for _ in range(5))
    metadata = template.get("metadata") or {}
    spec = {
        key: value for key, value in template["spec"].items() if key not in ("containerConcurrency", "timeoutSeconds")
    }
    return {
        "metadata": {
            "name": f"{prefix}-{suffix}",
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(metadata.get("labels") or {}) | _labels_of_a_source(owner),
            "annotations": dict(metadata.get("annotations") or {}) | {names.TEMPLATE_DIGEST: digest},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": spec | {"nodeName": "localhost", "restartPolicy": "Always"},
    }


def _container_name(revision: Object) -> str:
    """KServe's and Knative's."""
    return "kserve-container" if names.INFERENCE_SERVICE_LABEL in names.labels_of(revision) else "user-container"


def _labels_of_a_source(owner: Object) -> dict[str, str]:
    """By which Knative's own controller marks the pods of a ContainerSource, and `whimbrel logs` finds them."""
    if owner["kind"] != "ContainerSource":
        return {}
    return {names.CONTAINER_SOURCE_LABEL: owner["metadata"]["name"], names.SOURCE_LABEL: "container-source-controller"}
