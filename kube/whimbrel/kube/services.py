"""Where an InferenceService or a Knative Service is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import NotFound, Unavailable
from whimbrel.kube.conditions import why_not_ready
from whimbrel.kube.connection import connect, read

INFERENCE_SERVICE = ("serving.kserve.io/v1beta1", "inferenceservices")
KNATIVE_SERVICE = ("serving.knative.dev/v1", "services")


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """`url` is reached through the ingress, `cluster_url` only from inside the cluster."""

    name: str
    namespace: str
    url: str
    cluster_url: str | None


async def service_address(
    name: str, namespace: str = "default", *, kubeconfig: str | None = None, context: str | None = None
) -> ServiceAddress:
    """The address of the InferenceService `name`, or else of the Knative Service.

    Raises SettingsError without a kubeconfig, NotFound when there is neither, Unavailable when it is not Ready, with
    the reason that its conditions give.
    """
    async with connect(kubeconfig, context) as api:
        for version, plural in (INFERENCE_SERVICE, KNATIVE_SERVICE):
            try:
                document = await read(api, version, plural, name, namespace)
            except NotFound:
                continue
            return address_of(document, name, namespace)
    raise NotFound(
        f"expected an InferenceService or a Knative Service {name!r} in the namespace {namespace!r}, seen neither; "
        f"list them with 'kubectl get inferenceservices,ksvc -n {namespace}'"
    )


def address_of(resource: Mapping[str, Any], name: str, namespace: str) -> ServiceAddress:
    """Read from the status; raises Unavailable while the service is not Ready or has no URL."""
    status = resource.get("status") or {}
    reason = why_not_ready(resource)
    if reason is not None:
        raise Unavailable(
            f"expected {namespace}/{name} to be Ready; {reason}; "
            f"see 'kubectl describe {str(resource.get('kind', 'service')).lower()} {name} -n {namespace}'"
        )
    if not status.get("url"):
        raise Unavailable(f"expected a URL in the status of {namespace}/{name}, seen none; is an ingress configured?")
    return ServiceAddress(
        name=name,
        namespace=namespace,
        url=str(status["url"]).rstrip("/"),
        cluster_url=(status.get("address") or {}).get("url"),
    )
