"""Checks of what a cluster has once and this project needs of it: a role, webhooks, GPUs, autoscaling; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from whimbrel.kube.doctor.finding import Finding, missing, ok, unknown, warning
from whimbrel.kube.doctor.looking import EVENTING, KSERVE, SERVING
from whimbrel.kube.doctor.platform import RELEASES, is_standard
from whimbrel.kube.doctor.snapshot import Look, Object, Snapshot

_ADDRESSABLE = "duck.knative.dev/addressable"
DEVICE = "nvidia.com/gpu"


def addressable(found: Snapshot) -> Iterator[Finding]:
    """Whether a Trigger may name an InferenceService."""
    if found.is_one_machine:
        return
    look, check = found.cluster_roles, "addressable ClusterRole"
    remedy = "kubectl apply -f manifests/base/addressable-resolver.yaml"
    if look.state != "seen":
        yield unknown(check, f"ClusterRoles may not be read: {look.said}", remedy)
        return
    labelled = [each for each in look.objects if (each["metadata"].get("labels") or {}).get(_ADDRESSABLE) == "true"]
    granting = [each["metadata"]["name"] for each in labelled if _grants(each)]
    if granting:
        yield ok(check, granting[0])
    else:
        seen = "none lets Knative Eventing read InferenceServices: Triggers that name one stay not Ready"
        yield missing(check, seen, remedy)


def _grants(role: Object) -> bool:
    wanted = {"get", "list", "watch"}
    return any(
        {"serving.kserve.io", "*"} & set(rule.get("apiGroups") or ())
        and {"inferenceservices", "*"} & set(rule.get("resources") or ())
        and (wanted <= set(rule.get("verbs") or ()) or "*" in (rule.get("verbs") or ()))
        for rule in role.get("rules") or ()
    )


def webhooks(found: Snapshot) -> Iterator[Finding]:
    """Of KServe and Knative: without a certificate, or without a pod behind them, every apply is refused."""
    if found.is_one_machine:
        return
    if found.webhooks.state == "denied":
        yield unknown("webhooks", f"may not be read: {found.webhooks.said}")
        return
    ours = [
        (configuration["metadata"]["name"], webhook)
        for configuration in found.webhooks.objects
        for webhook in configuration.get("webhooks") or ()
        if _service(webhook).get("namespace") in (KSERVE, SERVING, EVENTING)
    ]
    broken = [line for name, webhook in ours if (line := _webhook_fault(found, name, webhook))]
    for seen, place in broken:
        yield missing("webhooks", seen, f"kubectl get pods -n {place}; kubectl rollout restart deployment -n {place}")
    if ours and not broken:
        yield ok("webhooks", f"{len(ours)} with a certificate and an endpoint")


def _webhook_fault(found: Snapshot, name: str, webhook: Mapping[str, Any]) -> tuple[str, str] | None:
    service = _service(webhook)
    place, target = str(service.get("namespace")), str(service.get("name"))
    if not (webhook.get("clientConfig") or {}).get("caBundle"):
        return f"{name}: no certificate in it (caBundle)", place
    if found.endpoint_slices.state == "seen" and not _has_endpoint(found.endpoint_slices, place, target):
        return f"{name}: no ready pod behind the Service {place}/{target}", place
    return None


def devices(found: Snapshot) -> Iterator[Finding]:
    """GPUs that can be had; how many are wanted by what is to be applied, and by what runs."""
    asked = sum(_asked(each) for each in found.wanted)
    if found.is_one_machine:
        return
    if found.nodes.state != "seen":
        yield unknown("GPUs", f"nodes may not be read: {found.nodes.said}")
        return
    counts = {each["metadata"]["name"]: _allocatable(each) for each in found.nodes.objects}
    total, nodes = sum(counts.values()), [name for name, count in counts.items() if count]
    remedy = "install the NVIDIA device plugin or GPU operator, and look at 'kubectl describe node'"
    if asked > total:
        yield missing("GPUs", f"{total} allocatable, {asked} wanted by one replica of each", remedy)
    elif total:
        tainted = [name for name in nodes if _is_tainted(found.nodes.named(name) or {})]
        note = f"; tainted: {', '.join(tainted)} (manifests/components/gpu-nodes)" if tainted else ""
        yield ok("GPUs", f"{total} allocatable on {len(nodes)} of {len(counts)} nodes{note}")
    else:
        yield ok("GPUs", "none, and none wanted")


def autoscaling(found: Snapshot) -> Iterator[Finding]:
    config = found.config(SERVING, "config-autoscaler")
    if config.get("enable-scale-to-zero", "true").lower() == "false":
        yield warning(
            "scale to zero",
            "switched off in config-autoscaler: every service keeps a replica",
            "kubectl patch configmap config-autoscaler -n knative-serving --type merge "
            """-p '{"data":{"enable-scale-to-zero":"true"}}'""",
        )
    if is_standard(found) and "ScaledObject" not in found.kinds.get("keda.sh/v1alpha1", frozenset()):
        release = RELEASES.format(repository="kedacore/keda", tag="v2.18.0", file="keda-2.18.0.yaml")
        yield missing("KEDA", "wanted by the mode Standard, not installed", f"kubectl apply --server-side -f {release}")


def _service(webhook: Mapping[str, Any]) -> Mapping[str, Any]:
    return (webhook.get("clientConfig") or {}).get("service") or {}


def _has_endpoint(slices: Look, namespace: str, service: str) -> bool:
    return any(
        (endpoint.get("conditions") or {}).get("ready") is not False
        for each in slices.objects
        if each["metadata"].get("namespace") == namespace
        and (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service
        for endpoint in each.get("endpoints") or ()
    )


def _allocatable(node: Object) -> int:
    return int(((node.get("status") or {}).get("allocatable") or {}).get(DEVICE, 0))


def _is_tainted(node: Object) -> bool:
    taints: Iterable[Mapping[str, Any]] = (node.get("spec") or {}).get("taints") or ()
    return any(each.get("effect") in ("NoSchedule", "NoExecute") for each in taints)


def _asked(wanted: Object) -> int:
    """GPUs of one replica of everything in an object."""
    if isinstance(wanted, Mapping):
        limits = (wanted.get("resources") or {}).get("limits") if isinstance(wanted.get("resources"), Mapping) else None
        own = int((limits or {}).get(DEVICE, 0))
        return own + sum(_asked(each) for each in wanted.values())
    return sum(_asked(each) for each in wanted) if isinstance(wanted, list) else 0
