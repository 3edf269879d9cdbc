"""What KServe's webhook lets through and Knative's refuses: seen only in a status, as a revision that never comes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, number
from whimbrel.kube.lint.workloads import KNATIVE, Component, Pod, components, pods

_MAX_TIMEOUT_SECONDS = 600  # max-revision-timeout-seconds of config-defaults
_MAX_CONCURRENCY = 1000  # container-concurrency-max-limit of config-defaults
_FEATURE_OF = {
    "affinity": "kubernetes.podspec-affinity",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostPID": "kubernetes.podspec-hostpid",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
}
_NEVER = (
    *("terminationGracePeriodSeconds", "activeDeadlineSeconds", "restartPolicy", "nodeName", "hostname", "subdomain"),
    *("priority", "readinessGates", "overhead", "preemptionPolicy", "setHostnameAsFQDN"),
)
_SECURITY_CONTEXT = "kubernetes.podspec-securitycontext"
_INIT_CONTAINERS = "kubernetes.podspec-init-containers"
_PVC = "kubernetes.podspec-persistent-volume-claim"
_VOLUME_FEATURE = {
    "persistentVolumeClaim": _PVC,
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "csi": "kubernetes.podspec-volumes-csi",
}
_VOLUMES = frozenset({"name", "configMap", "secret", "emptyDir", "projected", *_VOLUME_FEATURE})
_FEATURE_REMEDY = (
    "leave it out, or enable the flag in the ConfigMap config-features of knative-serving and name it with --feature"
)


def _knative(manifests: Manifests) -> Iterator[Pod]:
    return (pod for pod in pods(manifests) if pod.knative)


def _security_context(manifests: Manifests) -> Iterator[Fault]:
    if _SECURITY_CONTEXT in manifests.features:
        return
    for pod in _knative(manifests):
        if "securityContext" in pod.spec:
            yield Fault(pod.document, f"{pod.path}.securityContext", "a securityContext of the pod")


def _pod_fields(manifests: Manifests) -> Iterator[Fault]:
    for pod in _knative(manifests):
        for field, feature in _FEATURE_OF.items():
            if field in pod.spec and feature not in manifests.features:
                yield Fault(pod.document, f"{pod.path}.{field}", f"{field}, which the flag {feature} allows")


def _pod_fields_never(manifests: Manifests) -> Iterator[Fault]:
    for pod in _knative(manifests):
        for field in _NEVER:
            if field in pod.spec:
                yield Fault(pod.document, f"{pod.path}.{field}", f"{field}: {pod.spec[field]!r}")


def _init_containers(manifests: Manifests) -> Iterator[Fault]:
    if _INIT_CONTAINERS in manifests.features:
        return
    for pod in _knative(manifests):
        if "initContainers" in pod.spec:
            yield Fault(
                pod.document, f"{pod.path}.initContainers", f"initContainers, which the flag {_INIT_CONTAINERS} allows"
            )


def _volumes(manifests: Manifests) -> Iterator[Fault]:
    for pod in _knative(manifests):
        for index, volume in enumerate(items(pod.spec.get("volumes"))):
            for kind in mapping(volume):
                feature = _VOLUME_FEATURE.get(kind)
                if kind not in _VOLUMES or (feature and feature not in manifests.features):
                    seen = (
                        f"{kind}, which the flag {feature} allows" if feature else f"{kind}, which Knative never takes"
                    )
                    yield Fault(pod.document, f"{pod.path}.volumes[{index}].{kind}", seen)
        for path, container in pod.containers():
            uri = str(container.get("storageUri", ""))
            if uri.startswith("pvc://") and _PVC not in manifests.features:
                yield Fault(
                    pod.document, f"{path}.storageUri", f"{uri}, mounted as a volume that the flag {_PVC} allows"
                )


def _ports(manifests: Manifests) -> Iterator[Fault]:
    for pod in _knative(manifests):
        listed = [(path, items(container.get("ports"))) for path, container in pod.containers()]
        if sum(len(ports) for _, ports in listed) > 1:
            path = next(path for path, ports in listed if ports)
            numbers = [str(mapping(port).get("containerPort")) for _, ports in listed for port in ports]
            yield Fault(pod.document, f"{path}.ports", f"ports {', '.join(numbers)}")


def _timeouts(manifests: Manifests) -> Iterator[Fault]:
    for component in _on_knative(manifests):
        yield from _above(component, "timeout", _MAX_TIMEOUT_SECONDS)
    for pod in pods(manifests):
        value = number(pod.spec.get("timeoutSeconds"))
        if pod.document.object["apiVersion"].startswith(KNATIVE) and value is not None and value > _MAX_TIMEOUT_SECONDS:
            yield Fault(pod.document, f"{pod.path}.timeoutSeconds", f"{value:g}")


def _concurrency(manifests: Manifests) -> Iterator[Fault]:
    for component in _on_knative(manifests):
        yield from _above(component, "containerConcurrency", _MAX_CONCURRENCY)
    for pod in pods(manifests):
        value = number(pod.spec.get("containerConcurrency"))
        if pod.document.object["apiVersion"].startswith(KNATIVE) and value is not None and value > _MAX_CONCURRENCY:
            yield Fault(pod.document, f"{pod.path}.containerConcurrency", f"{value:g}")


def _on_knative(manifests: Manifests) -> Iterator[Component]:
    return (component for component in components(manifests) if component.knative)


def _above(component: Component, field: str, most: int) -> Iterator[Fault]:
    value = number(component.spec.get(field))
    if value is not None and value > most:
        yield Fault(component.document, f"{component.path}.{field}", f"{value:g}")


def _image_names(manifests: Manifests) -> Iterator[Fault]:
    for pod in _knative(manifests):
        for path, container in pod.containers():
            image = str(container.get("image", ""))
            repository = re.sub(r"(:[^/:@]+)?(@.*)?$", "", image)
            host, slash, rest = repository.partition("/")
            name = rest if slash and ("." in host or ":" in host or host == "localhost") else repository
            if image and len(name) < 2:
                yield Fault(pod.document, f"{path}.image", f"the repository {name!r}")


RULES: tuple[Rule, ...] = (
    error(
        "knative-pod-security-context",
        "KServe admits a securityContext of the pod, and Knative refuses the revision",
        "give every container its own securityContext, which is enough for Pod Security 'restricted'",
        _security_context,
    ),
    error(
        "knative-pod-field",
        "Knative refuses this field of the pod unless a feature flag allows it",
        _FEATURE_REMEDY,
        _pod_fields,
    ),
    error(
        "knative-pod-field-never",
        "Knative refuses this field of the pod; a revision's grace period is its timeout",
        "leave it out",
        _pod_fields_never,
    ),
    error(
        "knative-init-containers",
        "Knative refuses initContainers unless a feature flag allows them",
        _FEATURE_REMEDY,
        _init_containers,
    ),
    error(
        "knative-volume",
        "Knative takes emptyDir, configMap, secret and projected volumes; others need a feature flag",
        _FEATURE_REMEDY,
        _volumes,
    ),
    error("knative-one-port", "Knative takes one port of one container", "leave one port", _ports),
    error(
        "knative-timeout",
        f"Knative refuses a timeout of more than {_MAX_TIMEOUT_SECONDS} s",
        f"set at most {_MAX_TIMEOUT_SECONDS}, or raise max-revision-timeout-seconds in config-defaults",
        _timeouts,
    ),
    error(
        "knative-concurrency",
        f"Knative refuses a containerConcurrency of more than {_MAX_CONCURRENCY}",
        f"set at most {_MAX_CONCURRENCY}; 0 is no limit",
        _concurrency,
    ),
    error(
        "knative-image-name",
        "Knative does not resolve an image whose repository has one character",
        "name the repository with two characters or more",
        _image_names,
    ),
)
