"""Which namespaces enforce Pod Security 'restricted', as far as the manifests say so."""

from __future__ import annotations

from whimbrel.kube.lint.rule import Manifests, mapping

_LABEL = "pod-security.kubernetes.io/enforce"


def restricted(manifests: Manifests, namespace: str) -> bool:
    return any(
        document.object["metadata"]["name"] == namespace
        and mapping(document.object["metadata"].get("labels")).get(_LABEL) == "restricted"
        for document in manifests.of("", "Namespace")
    )
