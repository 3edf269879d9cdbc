"""Where an InferenceService or a Knative Service is reached, and which of its revisions answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import NotFound, Unavailable
from whimbrel.kube.client import Client, client
from whimbrel.kube.conditions import Condition, why_not_ready
from whimbrel.kube.inference import Share, read_shares, read_status
from whimbrel.kube.kinds import INFERENCE_SERVICE, KNATIVE_SERVICE, REVISION

_SERVICE_LABEL = "serving.knative.dev/service"
_GENERATION_LABEL = "serving.knative.dev/configurationGeneration"


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """`url` is reached through the ingress, `cluster_url` only from inside the cluster."""

    name: str
    namespace: str
    url: str
    cluster_url: str | None


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a Knative Service. `percent` of all requests go to it; `trouble` is why it is not ready."""

    name: str
    service: str
    created: str
    image: str
    percent: int
    tags: tuple[str, ...]
    trouble: Condition | None

    @property
    def generation(self) -> str:
        return self.name.rpartition("-")[2]


async def service_address(
    name: str, namespace: str = "default", *, kubeconfig: str | None = None, context: str | None = None
) -> ServiceAddress:
    """The address of the InferenceService `name`, or else of the Knative Service.

    Raises SettingsError without a kubeconfig, NotFound when there is neither, Unavailable when it is not Ready, with
    the reason that its conditions give.
    """
    async with client(kubeconfig, context) as cluster:
        for kind in (INFERENCE_SERVICE, KNATIVE_SERVICE):
            document = await cluster.find(kind, name, namespace)
            if document is not None:
                return address_of(document, name, namespace)
    raise NotFound(
        f"expected an InferenceService or a Knative Service {name!r} in the namespace {namespace!r}, seen neither; "
        f"list them with 'whimbrel ls -n {namespace}'"
    )


def address_of(resource: Mapping[str, Any], name: str, namespace: str) -> ServiceAddress:
    """Read from the status; raises Unavailable while the service is not Ready or has no URL."""
    status = resource.get("status") or {}
    reason = why_not_ready(resource)
    if reason is not None:
        raise Unavailable(
            f"expected {namespace}/{name} to be Ready; {reason}; "
            f"see 'whimbrel describe {str(resource.get('kind', 'service')).lower()} {name} -n {namespace}'"
        )
    if not status.get("url"):
        raise Unavailable(f"expected a URL in the status of {namespace}/{name}, seen none; is an ingress configured?")
    return ServiceAddress(
        name=name,
        namespace=namespace,
        url=str(status["url"]).rstrip("/"),
        cluster_url=(status.get("address") or {}).get("url"),
    )


async def traffic(cluster: Client, name: str, namespace: str) -> dict[str, tuple[Share, ...]]:
    """Who gets which share: of an InferenceService by component, of a Knative Service under its own name."""
    found = await cluster.find(INFERENCE_SERVICE, name, namespace)
    if found is not None:
        return {str(each): component.traffic for each, component in read_status(found).components.items()}
    found = await cluster.get(KNATIVE_SERVICE, name, namespace)
    return {name: read_shares(found.get("status") or {})}


async def revisions(cluster: Client, service: str, namespace: str) -> tuple[Revision, ...]:
    """Of a Knative Service, the newest first. The predictor of an InferenceService `a` is the service `a-predictor`.

    A service that is not there has none; so has one of the Standard mode.
    """
    listed = await cluster.list(REVISION, namespace, labels=f"{_SERVICE_LABEL}={service}")
    owner = await cluster.find(KNATIVE_SERVICE, service, namespace)
    shares = read_shares((owner or {}).get("status") or {})
    newest_first = sorted(listed.objects, key=_generation, reverse=True)
    return tuple(_revision(each, service, shares) for each in newest_first)


def _revision(found: Mapping[str, Any], service: str, shares: tuple[Share, ...]) -> Revision:
    name = found["metadata"]["name"]
    mine = [share for share in shares if share.revision == name]
    containers = (found.get("spec") or {}).get("containers") or [{}]
    return Revision(
        name=name,
        service=service,
        created=str(found["metadata"].get("creationTimestamp") or ""),
        image=str(containers[0].get("image") or ""),
        percent=sum(share.percent for share in mine),
        tags=tuple(share.tag for share in mine if share.tag),
        trouble=why_not_ready(found),
    )


def _generation(found: Mapping[str, Any]) -> tuple[int, str]:
    number = str((found["metadata"].get("labels") or {}).get(_GENERATION_LABEL, ""))
    return int(number) if number.isdecimal() else 0, str(found["metadata"].get("creationTimestamp") or "")
