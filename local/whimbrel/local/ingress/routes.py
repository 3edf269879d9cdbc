"""Where a request goes: by host name to a service, and by its traffic to one of the service's revisions."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from whimbrel.local.ingress.replicas import Replicas


class Failure(Exception):
    """An answer of the gateway's own."""

    def __init__(self, status: int, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> bytes:
        return json.dumps({"error": str(self), "reason": "Gateway"}).encode()


@dataclass(frozen=True, slots=True)
class Share:
    """A revision's weight among those of one route."""

    weight: int
    replicas: Replicas


@dataclass(frozen=True, slots=True)
class Route:
    """A service, or one tag of it. Each request is split by itself, as Knative's gateways do it."""

    name: str
    shares: tuple[Share, ...]
    timeout_seconds: float
    no_revision: str = "no revision of it was ever ready"

    @property
    def taking(self) -> frozenset[Replicas]:
        """Those that requests may go to."""
        return frozenset(share.replicas for share in self.shares if share.weight or len(self.shares) == 1)

    def choose(self) -> Replicas:
        """Raises Failure where nothing takes requests."""
        if len(self.shares) == 1:
            return self.shares[0].replicas
        weights = [share.weight for share in self.shares]
        if not any(weights):
            raise Failure(503, f"{self.name}: {self.no_revision}", retry_after_seconds=1)
        return random.choices(self.shares, weights)[0].replicas  # noqa: S311 - a share, not a secret


class Routes:
    """The host names of the gateway and the services behind the ports; replaced as a whole when anything changes."""

    def __init__(self) -> None:
        self._by_host: Mapping[str, Route] = {}
        self._by_service: Mapping[str, Route] = {}
        self._by_tag: Mapping[str, Route] = {}

    def replace(self, by_host: Mapping[str, Route], by_service: Mapping[str, Route]) -> None:
        """Who waits for a revision that has no traffic any more chooses again, by these."""
        left = [
            each
            for name, before in self._by_service.items()
            for each in before.taking - (by_service[name].taking if name in by_service else frozenset())
        ]
        self._by_host, self._by_service = dict(by_host), dict(by_service)
        self._by_tag = {route.name: route for route in by_host.values() if route.name not in by_service}
        for replicas in left:
            replicas.dismiss()

    def at_host(self, host: str) -> Route:
        """Raises Failure for a host that no service has."""
        name = host.rpartition(":")[0] or host
        route = self._by_host.get(name.lower())
        if route is None:
            known = ", ".join(sorted(self._by_host)) or "none yet"
            raise Failure(404, f"no service has the host name {name.lower()!r:.100}; known are {known}")
        return route

    def tagged(self, route: Route, tag: str) -> Route:
        """What the tag of a service leads to. Raises Failure where it has no such tag, for which Knative would take
        the service itself."""
        found = self._by_tag.get(f"{tag}-{route.name}")
        if found is None:
            raise Failure(503, f"{route.name} has no revision with the tag {tag!r:.80}", retry_after_seconds=1)
        return found

    def of_service(self, name: str) -> Route:
        """Raises Failure while the service is not there."""
        route = self._by_service.get(name)
        if route is None:
            raise Failure(503, f"{name} is not there", retry_after_seconds=1)
        return route
