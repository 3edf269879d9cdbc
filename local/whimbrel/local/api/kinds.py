"""The kinds that are served, with the names and the columns of the real ones: the registry of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["string", "integer", "boolean", "date"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`: a JSONPath as CRDs write it, or the name of a computed one (`columns.py`)."""

    name: str
    path: str
    type: ColumnType = "string"
    priority: int = 0  # above 0: only with -o wide


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, in the one version of it that is served.

    Its name is the first column, unless `columns` has it elsewhere.
    """

    group: str  # empty for the core group
    version: str
    kind: str
    plural: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    has_status: bool = True
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As messages name it: `inferenceservices.serving.kserve.io`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


AGE = Column("Age", ".metadata.creationTimestamp", "date")
READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status')
REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason')
_URL = Column("URL", ".status.url")
_PREVIOUS = ".status.components.predictor.traffic[?(@.tag=='prev')]"
_LATEST = ".status.components.predictor.traffic[?(@.latestRevision==true)]"
_RUNTIME_COLUMNS = (
    Column("Disabled", ".spec.disabled", "boolean"),
    Column("ModelType", ".spec.supportedModelFormats[*].name"),
    Column("Containers", ".spec.containers[*].name"),
    AGE,
)
_SERVING, _EVENTING, _SOURCES = (("all", "knative", part) for part in ("serving", "eventing", "sources"))

NAMESPACE = Kind(
    *("", "v1", "Namespace", "namespaces", ("ns",)),
    namespaced=False,
    columns=(Column("Status", ".status.phase"), AGE),
)
POD = Kind(
    *("", "v1", "Pod", "pods", ("po",)),
    categories=("all",),
    columns=(
        Column("Ready", "pod-ready"),
        Column("Status", "pod-status"),
        Column("Restarts", "pod-restarts"),
        AGE,
        Column("IP", ".status.podIP", priority=1),
        Column("Node", ".spec.nodeName", priority=1),
    ),
)
SERVICE = Kind(
    *("", "v1", "Service", "services", ("svc",)),
    categories=("all",),
    columns=(
        Column("Type", ".spec.type"),
        Column("Cluster-IP", ".spec.clusterIP"),
        Column("External-IP", ".spec.externalName"),
        Column("Port(s)", "service-ports"),
        AGE,
    ),
)
CONFIG_MAP = Kind(
    *("", "v1", "ConfigMap", "configmaps", ("cm",)), has_status=False, columns=(Column("Data", "data-count"), AGE)
)
SECRET = Kind(
    *("", "v1", "Secret", "secrets"),
    has_status=False,
    columns=(Column("Type", ".type"), Column("Data", "data-count"), AGE),
)
SERVICE_ACCOUNT = Kind(*("", "v1", "ServiceAccount", "serviceaccounts", ("sa",)), has_status=False, columns=(AGE,))
EVENT = Kind(
    *("", "v1", "Event", "events", ("ev",)),
    has_status=False,
    columns=(
        Column("Last Seen", "event-last-seen", "string"),
        Column("Type", ".type"),
        Column("Reason", ".reason"),
        Column("Object", "event-object"),
        Column("Count", ".count", "integer", priority=1),
        Column("Message", ".message"),
        Column("Name", ".metadata.name", priority=1),
    ),
)
PERSISTENT_VOLUME_CLAIM = Kind(
    *("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", ("pvc",)),
    columns=(Column("Status", ".status.phase"), Column("Volume", ".spec.volumeName"), AGE),
)
DEPLOYMENT = Kind(
    *("apps", "v1", "Deployment", "deployments", ("deploy",)),
    categories=("all",),
    columns=(
        Column("Ready", "deployment-ready"),
        Column("Up-to-date", ".status.updatedReplicas", "integer"),
        Column("Available", ".status.availableReplicas", "integer"),
        AGE,
    ),
)
REPLICA_SET = Kind(
    *("apps", "v1", "ReplicaSet", "replicasets", ("rs",)),
    categories=("all",),
    columns=(
        Column("Desired", ".spec.replicas", "integer"),
        Column("Current", ".status.replicas", "integer"),
        Column("Ready", ".status.readyReplicas", "integer"),
        AGE,
    ),
)
_RBAC = "rbac.authorization.k8s.io"
ROLE = Kind(_RBAC, "v1", "Role", "roles", has_status=False, columns=(AGE,))
ROLE_BINDING = Kind(_RBAC, "v1", "RoleBinding", "rolebindings", has_status=False, columns=(AGE,))
CLUSTER_ROLE = Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False, has_status=False, columns=(AGE,))
CLUSTER_ROLE_BINDING = Kind(
    *(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"), namespaced=False, has_status=False, columns=(AGE,)
)
NETWORK_POLICY = Kind(
    *("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", ("netpol",)), has_status=False, columns=(AGE,)
)
POD_DISRUPTION_BUDGET = Kind(
    *("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", ("pdb",)),
    columns=(
        Column("Min Available", ".spec.minAvailable"),
        Column("Max Unavailable", ".spec.maxUnavailable"),
        AGE,
    ),
)
LEASE = Kind(
    *("coordination.k8s.io", "v1", "Lease", "leases"),
    has_status=False,
    columns=(Column("Holder", ".spec.holderIdentity"), AGE),
)
INFERENCE_SERVICE = Kind(
    *("serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices", ("isvc",)),
    columns=(
        _URL,
        READY,
        Column("Prev", f"{_PREVIOUS}.percent", "integer"),
        Column("Latest", f"{_LATEST}.percent", "integer"),
        Column("PrevRolledoutRevision", f"{_PREVIOUS}.revisionName"),
        Column("LatestReadyRevision", f"{_LATEST}.revisionName"),
        AGE,
    ),
)
SERVING_RUNTIME = Kind(
    *("serving.kserve.io", "v1alpha1", "ServingRuntime", "servingruntimes"),
    has_status=False,
    columns=_RUNTIME_COLUMNS,
)
CLUSTER_SERVING_RUNTIME = Kind(
    *("serving.kserve.io", "v1alpha1", "ClusterServingRuntime", "clusterservingruntimes"),
    namespaced=False,
    has_status=False,
    columns=_RUNTIME_COLUMNS,
)
CLUSTER_STORAGE_CONTAINER = Kind(
    *("serving.kserve.io", "v1alpha1", "ClusterStorageContainer", "clusterstoragecontainers"),
    namespaced=False,
    has_status=False,
    columns=(AGE,),
)
_REVISIONS = (
    Column("LatestCreated", ".status.latestCreatedRevisionName"),
    Column("LatestReady", ".status.latestReadyRevisionName"),
)
KNATIVE_SERVICE = Kind(
    *("serving.knative.dev", "v1", "Service", "services", ("kservice", "ksvc")),
    categories=_SERVING,
    columns=(_URL, *_REVISIONS, READY, REASON),
)
CONFIGURATION = Kind(
    *("serving.knative.dev", "v1", "Configuration", "configurations", ("config", "cfg")),
    categories=_SERVING,
    columns=(*_REVISIONS, READY, REASON),
)
ROUTE = Kind(
    *("serving.knative.dev", "v1", "Route", "routes", ("rt",)), categories=_SERVING, columns=(_URL, READY, REASON)
)
REVISION = Kind(
    *("serving.knative.dev", "v1", "Revision", "revisions", ("rev",)),
    categories=_SERVING,
    columns=(
        Column("Config Name", ".metadata.labels['serving\\.knative\\.dev/configuration']"),
        Column("Generation", ".metadata.labels['serving\\.knative\\.dev/configurationGeneration']"),
        READY,
        REASON,
        Column("Actual Replicas", ".status.actualReplicas", "integer"),
        Column("Desired Replicas", ".status.desiredReplicas", "integer"),
    ),
)
BROKER = Kind(
    *("eventing.knative.dev", "v1", "Broker", "brokers"),
    categories=_EVENTING,
    columns=(
        Column("URL", ".status.address.url"),
        AGE,
        READY,
        REASON,
        Column("Class", ".metadata.annotations['eventing\\.knative\\.dev/broker\\.class']", priority=1),
    ),
)
TRIGGER = Kind(
    *("eventing.knative.dev", "v1", "Trigger", "triggers"),
    categories=_EVENTING,
    columns=(
        Column("Broker", ".spec.broker"),
        Column("Subscriber_URI", ".status.subscriberUri"),
        AGE,
        READY,
        REASON,
    ),
)
_SINK = Column("Sink", ".status.sinkUri")
CONTAINER_SOURCE = Kind(
    *("sources.knative.dev", "v1", "ContainerSource", "containersources"),
    categories=_SOURCES,
    columns=(_SINK, AGE, READY, REASON),
)
SINK_BINDING = Kind(
    *("sources.knative.dev", "v1", "SinkBinding", "sinkbindings"),
    categories=(*_SOURCES, "bindings"),
    columns=(_SINK, AGE, READY, REASON),
)
MODEL_ROLLOUT = Kind(
    *("rollout.whimbrel.dev", "v1", "ModelRollout", "modelrollouts", ("mr",)),
    categories=("whimbrel",),
    columns=(
        Column("Model", ".spec.model"),
        Column("Phase", ".status.phase"),
        Column("Percent", ".status.percent", "integer"),
        Column("Message", ".status.message", priority=1),
        AGE,
    ),
)
PROMETHEUS_RULE = Kind(
    *("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules", ("promrule",)),
    has_status=False,
    columns=(AGE,),
)
CUSTOM_RESOURCE_DEFINITION = Kind(
    *("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", ("crd", "crds")),
    namespaced=False,
    has_status=False,
    columns=(Column("Created At", ".metadata.creationTimestamp"),),
)

KINDS: tuple[Kind, ...] = (
    *(NAMESPACE, POD, SERVICE, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, EVENT, PERSISTENT_VOLUME_CLAIM),
    *(DEPLOYMENT, REPLICA_SET, ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING),
    *(NETWORK_POLICY, POD_DISRUPTION_BUDGET, LEASE),
    *(INFERENCE_SERVICE, SERVING_RUNTIME, CLUSTER_SERVING_RUNTIME, CLUSTER_STORAGE_CONTAINER),
    *(KNATIVE_SERVICE, CONFIGURATION, ROUTE, REVISION, BROKER, TRIGGER, CONTAINER_SOURCE, SINK_BINDING),
    *(MODEL_ROLLOUT, PROMETHEUS_RULE, CUSTOM_RESOURCE_DEFINITION),
)

_BY_PLURAL = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
_BY_KIND = {(kind.api_version, kind.kind): kind for kind in KINDS}
_BY_RESOURCE = {kind.resource: kind for kind in KINDS}


def by_plural(group: str, version: str, plural: str) -> Kind | None:
    return _BY_PLURAL.get((group, version, plural))


def by_kind(api_version: str, kind: str) -> Kind | None:
    return _BY_KIND.get((api_version, kind))


def by_resource(resource: str) -> Kind:
    """The kind of a `Kind.resource`. Raises KeyError."""
    return _BY_RESOURCE[resource]
