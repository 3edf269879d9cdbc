"""Where the load goes: a URL, a service behind the gateway of this machine, or one on a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from whimbrel.core.errors import SettingsError
from whimbrel.core.logs import redact
from whimbrel.kube.services import service_address

LOCAL_DOMAIN = "localhost"
EVENTS_PATH = "/events"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Target:
    """`host` is the Host header where it is another than the URL's own."""

    url: str
    host: str | None = None

    def __post_init__(self) -> None:
        if not _is_http(self.url):
            raise SettingsError(f"expected a URL http://HOST[:PORT]/PATH as target, seen {redact(self.url)!r}")
        if "@" in urlsplit(self.url).netloc:
            raise SettingsError(
                "expected a target without a user in its URL; send it with --header 'Authorization: ...'"
            )
        if self.host is not None and not re.fullmatch(r"[A-Za-z0-9.:_\[\]-]{1,255}", self.host):
            raise SettingsError(f"expected a host name as Host header, seen {self.host!r}")


@dataclass(frozen=True, slots=True)
class Place:
    """A path on an InferenceService or a Knative Service."""

    service: str
    namespace: str = "default"
    path: str = "/"

    def __post_init__(self) -> None:
        for part in (self.service, self.namespace):
            if not _NAME.fullmatch(part):
                raise SettingsError(f"expected the name of a service or a namespace (a-z, 0-9 and -), seen {part!r}")
        if not self.path.startswith("/"):
            raise SettingsError(f"expected a path that starts with /, seen {self.path!r}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Absent: what KUBECONFIG and the kubeconfig itself name."""

    kubeconfig: str | None = None
    context: str | None = None


def predict_path(model: str) -> str:
    """The V1 path, which takes raw image bytes as well as JSON."""
    return f"/v1/models/{model}:predict"


def behind_gateway(gateway: str, place: Place) -> Target:
    """Behind a gateway that routes by Host, as the one of `whimbrel up` does."""
    return Target(gateway.rstrip("/") + place.path, host=f"{place.service}.{place.namespace}.{LOCAL_DOMAIN}")


async def on_cluster(place: Place, cluster: Cluster) -> Target:
    """Through the service's own URL; raises what `whimbrel.kube.services.service_address` raises."""
    found = await service_address(
        place.service, place.namespace, kubeconfig=cluster.kubeconfig, context=cluster.context
    )
    return Target(found.url + place.path)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    spaced = re.search(r"[\s\x00-\x1f]", url) is not None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not spaced
