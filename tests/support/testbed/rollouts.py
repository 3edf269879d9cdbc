"""ModelRollouts against a running API server, the controller that carries them out, and steady load meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from testbed.images import png
from testbed.kubernetes_api import KubernetesApi
from testbed.processes import Running, running
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.core.tensors import VERSION_HEADER
from whimbrel.mlflow.rollout.known_objects import KnownObject, dump_known_objects
from whimbrel.mlflow.rollout.resource import Spec, new
from whimbrel.predictors.null_network import null_network

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PATH = "/apis/rollout.whimbrel.dev/v1/namespaces/default/modelrollouts"
PHASES = ("Loading", "Backtest", "Canary", "Promoting", "Promoted")
WHOLE_WAY = [0, 0, 20, 50, 100, 100]  # percent of each entry of the history of FAST
_PAUSE_SECONDS = 0.01  # between two requests of the load: what starts meanwhile needs the cores as well
FAST: dict[str, Any] = {
    "backtest": {"objects": 30, "requestsPerSecond": 200},
    "steps": [{"percent": 20, "dwell": "500ms", "samples": 20}, {"percent": 50, "dwell": "500ms", "samples": 20}],
    "gates": {"accuracy": {"allowed": 0.01, "tolerance": 0.3}, "errors": {"allowed": 0.01, "tolerance": 0.3}},
    "shadowsPerSecond": 40,
    "deadline": "20m",
}


def null_version(name: str, uri: str) -> PointedVersion:
    return PointedVersion(version=name, uri=uri, digest=null_network(uri).description.digest)


def put_known_objects(s3: S3Client, bucket: str) -> str:
    """60 pictures and the list of them with their labels; its address."""
    known = []
    for number in range(60):
        s3.put_object(Bucket=bucket, Key=f"photos/{number}.png", Body=png(number % 10))
        known.append(KnownObject(uri=f"s3://{bucket}/photos/{number}.png", label=f"class-{number % 10}"))
    s3.put_object(Bucket=bucket, Key="known.jsonl", Body=dump_known_objects(known))
    return f"s3://{bucket}/known.jsonl"


@dataclass
class Load:
    """What became of requests one after the other, for as long as a rollout takes."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)


@contextmanager
def steady_load(url: str, model: str, host: str | None = None) -> Iterator[Load]:
    seen, stop = Load(), threading.Event()
    headers = {"content-type": "image/png"} | ({"host": host} if host else {})

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not stop.wait(_PAUSE_SECONDS):
                answer = client.post(f"/v1/models/{model}:predict", content=png(7), headers=headers)
                seen.statuses[answer.status_code] += 1
                seen.versions[answer.headers.get(VERSION_HEADER, "")] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(30)


@dataclass
class Rollouts:
    """Of one InferenceService. `spec`: what its rollouts have in common; `environment`: the controller's settings."""

    api: KubernetesApi
    environment: Mapping[str, str]
    log: Path
    spec: Mapping[str, Any]

    def start(self, name: str, candidate: PointedVersion, policy: dict[str, Any] | None = None, **spec: Any) -> None:
        given = {**self.spec, "candidate": candidate.model_dump(), **spec}
        given["policy"] = {**FAST, **self.spec.get("policy", {}), **(policy or {})}
        self.send("POST", PATH, new("default", name, Spec.model_validate(given)))

    def decide(self, name: str, decision: str) -> None:
        self.send("PATCH", f"{PATH}/{name}", {"spec": {"decision": decision}})

    def send(self, method: str, path: str, body: Any = None) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with self.api.client(**{"content-type": kind}) as client:
            answer = client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json()

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.send("GET", f"{PATH}/{name}").get("status", {})
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase", ""))

    def at_its_step(self, name: str) -> bool:
        status = self.status(name)
        return status.get("phase") == "Canary" and "arrived" in status

    def ends(self, name: str, controller: Running, seconds: float = 120) -> dict[str, Any]:
        controller.wait_until(lambda: self.phase(name) in ("Promoted", "RolledBack"), f"the end of {name}", seconds)
        return self.status(name)

    def ends_though_killed_in_every_phase(self, name: str) -> dict[str, Any]:
        """Each phase by another controller, the last by two at once."""
        for number, phase in enumerate(PHASES):
            with self.controller() as controller:
                reached = PHASES[number:]
                controller.wait_until(lambda reached=reached: self.phase(name) in reached, phase, 120)  # type: ignore[misc]
                controller.kill()
        with self.controller() as first, self.controller():
            return self.ends(name, first)

    @contextmanager
    def controller(self) -> Iterator[Running]:
        environment = {**self.environment, "KUBECONFIG": str(self.api.kubeconfig)}
        arguments = ("rollouts", "--poll-seconds", "0.1")
        with running("whimbrel.mlflow", *arguments, log=self.log, **environment) as process:
            yield process
