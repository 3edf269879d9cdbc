"""A storage, and what an engine would make of it at each pass; its processes are as ready as a test says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from whimbrel.local import embedded
from whimbrel.local.api import kinds
from whimbrel.local.api.kinds import Kind, by_kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage
from whimbrel.local.applying import apply
from whimbrel.local.control import names, pods
from whimbrel.local.control.door import verdict
from whimbrel.local.control.outcome import Facts, Outcome, Tried
from whimbrel.local.control.passes import run
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.routing import RoutePlan
from whimbrel.local.control.world import World
from whimbrel.local.workload import Workload

OVERLAY = Path(__file__).parents[3] / "manifests" / "overlays" / "local"
MACHINE = {"PATH": "/usr/bin:/bin"}
GATEWAY, BROKER_PORT = 1000, 1001


@dataclass
class Machine:
    """A storage and what an engine would know; its processes are as ready as the test says."""

    storage: Storage
    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    replicas: dict[tuple[str, str], int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # revisions whose processes never get ready
    ports: dict[str, int] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcome: Outcome = field(default_factory=Outcome)
    brokers: frozenset[tuple[str, str]] = frozenset()
    resting: frozenset[Tried] = frozenset()

    def apply(self, *documents: str) -> None:
        apply(self.storage, verdict, [each for text in documents for each in yaml.safe_load_all(text)])

    def once(self) -> None:
        self.outcome = run(World(self.storage), self._facts())

    def settle(self) -> None:
        """Until nothing changes any more, with every process ready at once but the broken ones."""
        for _ in range(20):
            before = self.storage.version
            self.once()
            self.brokers = frozenset((each["namespace"], each["name"]) for each in self.outcome.broker["brokers"])
            known = {names.of(pod): self._of(pod) for pod, _ in self.outcome.pods}
            if self.storage.version == before and known == self.seen:
                return
            self.seen = known
        raise AssertionError("it never comes to rest")

    def get(self, kind: Kind, name: str, namespace: str = "default") -> Object:
        return self.storage.get(kind, namespace, name)

    def condition(self, kind: Kind, name: str, type_: str = "Ready") -> str:
        listed = self.get(kind, name)["status"]["conditions"]
        return str(next(each["status"] for each in listed if each["type"] == type_))

    def patch(self, name: str, **predictor: Any) -> None:
        """Changes the predictor of an InferenceService; None takes a field away."""

        def changed(found: Object) -> Object:
            given = {**found["spec"]["predictor"], **predictor}
            found["spec"]["predictor"] = {key: value for key, value in given.items() if value is not None}
            return found

        self.storage.modify(kinds.INFERENCE_SERVICE, "default", name, changed)

    def workload(self, prefix: str) -> Workload:
        pod, kind = next((pod, kind) for pod, kind in self.outcome.pods if pod["metadata"]["name"].startswith(prefix))
        return pods.workload(pod, kind, self._values, self._address, MACHINE)

    def route(self, host: str) -> RoutePlan:
        return next(each for each in self.outcome.routes if each.host == host)

    def _of(self, pod: Object) -> Seen:
        revision = names.labels_of(pod).get(names.REVISION_LABEL, "")
        if revision in self.broken:
            return Seen(restarts=1, last_exit="ended with status 3: no such model", exit_status=3)
        return Seen(running=True, ready=True)

    def _facts(self) -> Facts:
        return Facts(
            *(self.seen, self.replicas, self._port, GATEWAY, BROKER_PORT, self.brokers, 60.0, 4, self.now),
            before=self.outcome,
            resting=self.resting,
        )

    def _port(self, service: str) -> int:
        return self.ports.setdefault(service, 2000 + len(self.ports))

    def _address(self, name: str, namespace: str) -> str | None:
        return f"127.0.0.1:{self._port(names.qualified(name, namespace))}"

    def _values(self, kind: str, namespace: str, name: str) -> dict[str, str] | None:
        found = World(self.storage).find(kinds.SECRET if kind == "Secret" else kinds.CONFIG_MAP, namespace, name)
        if found is None:
            return None
        return pods.secret_values(found) if kind == "Secret" else dict(found.get("data") or {})


@contextmanager
def controlled(folder: Path) -> Iterator[Machine]:
    """With the objects that an engine makes first."""
    storage = Storage(folder / "objects.db")
    for found in embedded.settings_objects("default", 1, 2):
        kind = by_kind(found["apiVersion"], found["kind"])
        assert kind is not None
        storage.create(kind, found)
    yield Machine(storage)
    storage.close()


def service(name: str = "one", image: str = "whimbrel/predictors:1", **predictor: Any) -> str:
    container = {"name": "kserve-container", "image": image, "args": ["--model-name=one"]}
    return json.dumps(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"containers": [container], **predictor}},
        }
    )


def containers(*arguments: str) -> list[dict[str, Any]]:
    return [{"name": "kserve-container", "image": "whimbrel/predictors:1", "args": list(arguments)}]
