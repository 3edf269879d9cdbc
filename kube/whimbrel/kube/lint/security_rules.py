"""Pod Security: what a namespace with 'restricted' refuses, which is seen only in the events of a ReplicaSet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.kube.lint.namespaces import restricted
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error, items, mapping, namespace_of
from whimbrel.kube.lint.workloads import KSERVE, Pod, components, pods

_SECCOMP = ("RuntimeDefault", "Localhost")


def _unrestricted(manifests: Manifests) -> Iterator[Fault]:
    for pod in pods(manifests):
        if not restricted(manifests, namespace_of(pod.document.object)):
            continue
        for path, container in pod.containers():
            # A model's container is its runtime's.
            missing = _missing(pod, mapping(container.get("securityContext"))) if "ontainers[" in path else []
            if missing:
                yield Fault(pod.document, f"{path}.securityContext", f"no {', no '.join(missing)}")


def _missing(pod: Pod, own: Mapping[str, Any]) -> list[str]:
    """What 'restricted' wants of a container, its pod's securityContext included."""
    outer = mapping(pod.spec.get("securityContext"))
    seccomp = mapping(own.get("seccompProfile") or outer.get("seccompProfile"))
    dropped = items(mapping(own.get("capabilities")).get("drop"))
    wanted = {
        "allowPrivilegeEscalation: false": own.get("allowPrivilegeEscalation") is False,
        "runAsNonRoot: true": own.get("runAsNonRoot", outer.get("runAsNonRoot")) is True,
        "capabilities.drop: [ALL]": "ALL" in dropped,
        "seccompProfile.type: RuntimeDefault": seccomp.get("type") in _SECCOMP,
    }
    return [name for name, fulfilled in wanted.items() if not fulfilled]


def _storage_initializer(manifests: Manifests) -> Iterator[Fault]:
    prefixes = tuple(_secured_prefixes(manifests))
    for component in components(manifests):
        if not restricted(manifests, namespace_of(component.document.object)):
            continue
        for field, uri in _storage_uris(component.spec):
            if not uri.startswith("pvc://") and not (prefixes and uri.startswith(prefixes)):
                yield Fault(component.document, f"{component.path}.{field}", uri)


def _storage_uris(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field, value in spec.items():
        if isinstance(value, Mapping) and value.get("storageUri"):
            yield f"{field}.storageUri", str(value["storageUri"])
    for index, storage in enumerate(items(spec.get("storageUris"))):
        yield f"storageUris[{index}].uri", str(mapping(storage).get("uri", ""))


def _secured_prefixes(manifests: Manifests) -> Iterator[str]:
    for document in manifests.of(KSERVE, "ClusterStorageContainer"):
        spec = mapping(document.object.get("spec"))
        if mapping(mapping(spec.get("container")).get("securityContext")).get("seccompProfile"):
            for wanted in items(spec.get("supportedUriFormats")):
                if prefix := mapping(wanted).get("prefix"):
                    yield str(prefix)


RULES: tuple[Rule, ...] = (
    error(
        "pod-security",
        "the namespace enforces Pod Security 'restricted', which refuses the pod: no replica ever comes",
        "give the container the securityContext that is named",
        _unrestricted,
    ),
    error(
        "storage-initializer",
        "KServe injects its storage initializer without a securityContext, which Pod Security 'restricted' refuses",
        "apply a ClusterStorageContainer for the URI with a securityContext (manifests/components/storage-container)",
        _storage_initializer,
    ),
)
