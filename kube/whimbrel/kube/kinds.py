"""The kinds of resources that this project knows, and where the API server has each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `plural` is its place in a URL; `short` are the names that people type besides."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def title(self) -> str:
        """As kubectl prints it: `inferenceservice.serving.kserve.io`."""
        return ".".join(part for part in (self.kind.lower(), self.group) if part)


_SERVING, _KSERVE = "serving.knative.dev/v1", "serving.kserve.io/v1beta1"
_EVENTING, _SOURCES, _RBAC = "eventing.knative.dev/v1", "sources.knative.dev/v1", "rbac.authorization.k8s.io/v1"
_ADMISSION = "admissionregistration.k8s.io/v1"

INFERENCE_SERVICE = Kind(_KSERVE, "InferenceService", "inferenceservices", short=("isvc",))
SERVING_RUNTIME = Kind("serving.kserve.io/v1alpha1", "ServingRuntime", "servingruntimes")
INFERENCE_GRAPH = Kind("serving.kserve.io/v1alpha1", "InferenceGraph", "inferencegraphs", short=("ig",))
KNATIVE_SERVICE = Kind(_SERVING, "Service", "services", short=("ksvc",))
REVISION = Kind(_SERVING, "Revision", "revisions", short=("rev",))
BROKER = Kind(_EVENTING, "Broker", "brokers")
TRIGGER = Kind(_EVENTING, "Trigger", "triggers")
CONTAINER_SOURCE = Kind(_SOURCES, "ContainerSource", "containersources")
SINK_BINDING = Kind(_SOURCES, "SinkBinding", "sinkbindings")
MODEL_ROLLOUT = Kind("rollout.whimbrel.dev/v1", "ModelRollout", "modelrollouts", short=("rollout",))

POD = Kind("v1", "Pod", "pods", short=("po",))
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps", short=("cm",))
SECRET = Kind("v1", "Secret", "secrets")
SERVICE = Kind("v1", "Service", "services", short=("svc",))
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", short=("sa",))
EVENT = Kind("v1", "Event", "events", short=("ev",))
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False, short=("ns",))
NODE = Kind("v1", "Node", "nodes", namespaced=False)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments", short=("deploy",))
CLUSTER_ROLE = Kind(_RBAC, "ClusterRole", "clusterroles", namespaced=False)
CUSTOM_RESOURCE = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False, short=("crd",)
)
VALIDATING_WEBHOOK = Kind(
    _ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False
)
MUTATING_WEBHOOK = Kind(_ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False)

# What makes up the way of an image: `whimbrel ls` shows these.
OURS = (
    *(INFERENCE_SERVICE, SERVING_RUNTIME, INFERENCE_GRAPH, KNATIVE_SERVICE),
    *(BROKER, TRIGGER, CONTAINER_SOURCE, SINK_BINDING, MODEL_ROLLOUT),
)
KNOWN = (
    *OURS,
    *(REVISION, POD, CONFIG_MAP, SECRET, SERVICE, SERVICE_ACCOUNT, EVENT, NAMESPACE, NODE, DEPLOYMENT, CLUSTER_ROLE),
    *(CUSTOM_RESOURCE, VALIDATING_WEBHOOK, MUTATING_WEBHOOK),
)


def kind_named(name: str) -> Kind:
    """By any name that people use: kind, plural, short name, or plural with its group.

    `service` is Knative's, as the project has no other. Raises InputRefused for a name that is none.
    """
    wanted, _, group = name.lower().partition(".")
    for kind in KNOWN:
        if wanted in (kind.kind.lower(), kind.plural, *kind.short) and group in ("", kind.group):
            return kind
    names = ", ".join(kind.short[0] if kind.short else kind.kind.lower() for kind in OURS)
    raise InputRefused(f"expected a kind such as {names}, seen {name!r}")


def known_kind(found: Mapping[str, Any]) -> Kind | None:
    """The kind of an object, or None where it is none of ours."""
    identity = (found.get("apiVersion"), found.get("kind"))
    return next((kind for kind in KNOWN if (kind.api_version, kind.kind) == identity), None)


def discovered(api_version: str, kind: str, listing: Mapping[str, Any]) -> Kind | None:
    """A kind as the server's own list of the resources of a group version (`APIResourceList`) has it."""
    for entry in listing.get("resources") or ():
        if entry.get("kind") == kind and "/" not in str(entry.get("name", "/")):
            return Kind(api_version, kind, str(entry["name"]), namespaced=bool(entry.get("namespaced")))
    return None


# What others refer to comes first. Everything that is not listed lies between the two.
_FIRST = (
    *("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding"),
    *("RoleBinding", "ConfigMap", "Secret"),
)
_LAST = ("Broker", "InferenceService", "Trigger", "ContainerSource", "SinkBinding", "ModelRollout")


def in_order(objects: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """In the order in which they are applied: a source starts when everything that it feeds is there."""

    def rank(found: Mapping[str, Any]) -> int:
        kind = str(found.get("kind"))
        if kind in _FIRST:
            return _FIRST.index(kind)
        return len(_FIRST) + (1 + _LAST.index(kind) if kind in _LAST else 0)

    return sorted(objects, key=rank)
