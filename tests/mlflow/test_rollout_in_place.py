"""Rollouts in place against real processes: an API server, a store, a predictor on a pointer, a transformer, load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.images import png
from testbed.kubernetes_api import KubernetesApi, kubernetes_api
from testbed.predictors import running_predictor
from testbed.processes import Running, running, wait_for
from testbed.stores import Store
from testbed.transformers import running_transformer
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.references import ObjectRef
from whimbrel.core.tensors import VERSION_HEADER
from whimbrel.mlflow.rollout.known_objects import KnownObject, dump_known_objects
from whimbrel.mlflow.rollout.resource import Spec, new
from whimbrel.predictors.null_network import null_network

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "rollouts"
PREDICT = "/v1/models/digits:predict"
ROLLOUTS = "/apis/rollout.whimbrel.dev/v1/namespaces/default/modelrollouts"
FAST: dict[str, Any] = {
    "backtest": {"objects": 30, "requestsPerSecond": 200},
    "steps": [{"percent": 20, "dwell": "500ms", "samples": 20}, {"percent": 50, "dwell": "500ms", "samples": 20}],
    "gates": {"accuracy": {"allowed": 0.01, "tolerance": 0.3}, "errors": {"allowed": 0.01, "tolerance": 0.3}},
    "shadowsPerSecond": 40,
    "deadline": "2m",
}
PHASES = ("Loading", "Backtest", "Canary", "Promoting", "Promoted")


def version(name: str, uri: str) -> PointedVersion:
    return PointedVersion(version=name, uri=uri, digest=null_network(uri).description.digest)


CHAMPION = version("1", "null:10")
EQUAL = version("2", "null:10,16x24")  # another preset, the same answers
WORSE = version("3", "null:10,wrong")
ABSENT = PointedVersion(version="4", uri=f"s3://{BUCKET}/none", digest="sha256:" + "4" * 64)
MALFORMED = {
    "apiVersion": "rollout.whimbrel.dev/v1",
    "kind": "ModelRollout",
    "metadata": {"name": "broken", "namespace": "default"},
    "spec": {"model": "digits"},
}
FORGED = version("5", "null:10,8x8").model_copy(update={"digest": "sha256:" + "5" * 64})


@dataclass
class Load:
    """Requests one after the other, for as long as a rollout takes."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)


@dataclass
class World:
    api: KubernetesApi
    store: Store
    pointer: PointerStore
    transformer_url: str
    logs: Path

    def start(self, name: str, candidate: PointedVersion, policy: dict[str, Any] | None = None, **spec: Any) -> None:
        given = {
            "model": "digits",
            "inferenceService": "digits",
            "champion": CHAMPION.model_dump(),
            "candidate": candidate.model_dump(),
            "pointer": self.pointer.place.uri,
            "knownObjects": f"s3://{BUCKET}/known.jsonl",
            "evidence": f"s3://{BUCKET}/evidence",
            "policy": FAST | (policy or {}),
            **spec,
        }
        self.send("POST", ROLLOUTS, new("default", name, Spec.model_validate(given)))

    def send(self, method: str, path: str, body: Any = None) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with self.api.client(**{"content-type": kind}) as client:
            answer = client.request(method, path, json=body)
            answer.raise_for_status()
            return answer.json()

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.send("GET", f"{ROLLOUTS}/{name}").get("status", {})
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase", ""))

    def ends(self, name: str, controller: Running) -> dict[str, Any]:
        controller.wait_until(lambda: self.phase(name) in ("Promoted", "RolledBack"), f"the end of {name}", 40)
        return self.status(name)

    def points_at(self) -> Pointer:
        read = self.pointer.read()
        assert read is not None
        return read.pointer

    def back_to(self, champion: PointedVersion) -> None:
        read = self.pointer.read()
        assert read is not None
        self.pointer.write(Pointer(current=champion), read.etag)
        self.await_replicas()

    def await_replicas(self) -> None:
        """Until every replica is where the pointer is now, which is not where it was synced before."""
        read = self.pointer.read()
        assert read is not None
        wait_for(
            lambda: all(each.synced and each.pointer_etag == read.etag for each in self.pointer.live_replicas()),
            "the replica",
        )

    @contextmanager
    def controller(self) -> Iterator[Running]:
        environment = {**self.store.settings_environment, "KUBECONFIG": str(self.api.kubeconfig)}
        arguments = ("rollouts", "--poll-seconds", "0.1")
        with running("whimbrel.mlflow", *arguments, log=self.logs / "controller.log", **environment) as process:
            yield process

    @contextmanager
    def load(self) -> Iterator[Load]:
        seen, stop = Load(), threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.transformer_url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post(PREDICT, content=png(7), headers={"content-type": "image/png"})
                    seen.statuses[answer.status_code] += 1
                    seen.versions[answer.headers.get(VERSION_HEADER, "")] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join(30)


@pytest.fixture(scope="module")
def world(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    logs = tmp_path_factory.mktemp("rollouts")
    s3 = store.s3()
    s3.create_bucket(Bucket=BUCKET)
    _put_known_objects(s3)
    pointer = PointerStore(s3, ObjectRef(BUCKET, "digits/pointer.json"))
    pointer.write(Pointer(current=CHAMPION), None)
    follow = ("--pointer-poll-seconds", "0.1", "--pointer-lease-seconds", "5")
    uri, environment = f"pointer+{pointer.place.uri}", store.settings_environment
    with (
        kubernetes_api(logs / "api") as api,
        running_predictor(logs / "predictor.log", *follow, uri=uri, **environment) as predictor,
        running_transformer(
            logs / "transformer.log", store, predictor.url.removeprefix("http://"), "--reference-buckets", BUCKET
        ) as transformer,
    ):
        running_world = World(api, store, pointer, transformer.url, logs)
        _serve(running_world)
        yield running_world


def _put_known_objects(s3: S3Client) -> None:
    known = []
    for number in range(60):
        s3.put_object(Bucket=BUCKET, Key=f"photos/{number}.png", Body=png(number % 10))
        known.append(KnownObject(uri=f"s3://{BUCKET}/photos/{number}.png", label=f"class-{number % 10}"))
    s3.put_object(Bucket=BUCKET, Key="known.jsonl", Body=dump_known_objects(known))


def _serve(world: World) -> None:
    """An InferenceService whose address is the transformer's; nothing here runs it."""
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
    container = {"name": "kserve-container", "image": "whimbrel/predictors"}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {"predictor": {"containers": [container]}},
    }
    world.send("POST", path, service)
    world.send("PATCH", f"{path}/digits/status", {"status": {"url": world.transformer_url}})


@pytest.fixture
def fresh(world: World) -> World:
    world.back_to(CHAMPION)
    return world


def test_a_controller_that_is_killed_in_every_phase_is_gone_on_from(fresh: World) -> None:
    """At the end two of them: they do no harm. Comes before the one that all other tests share."""
    with fresh.load() as load:
        fresh.start("killed", EQUAL)
        for number, phase in enumerate(PHASES):
            with fresh.controller() as controller:
                controller.wait_until(partial(reached, fresh, PHASES[number:]), phase, 40)
                controller.kill()
        with fresh.controller() as first, fresh.controller():
            status = fresh.ends("killed", first)
    assert status["phase"] == "Promoted", status
    assert [entry["percent"] for entry in status["history"]] == [0, 0, 20, 50, 100, 100]
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=EQUAL)


def reached(world: World, phases: tuple[str, ...]) -> bool:
    return world.phase("killed") in phases


@pytest.fixture(scope="module")
def controller(world: World) -> Iterator[Running]:
    with world.controller() as process:
        yield process


def test_an_equal_candidate_is_promoted_under_load_and_no_request_fails(
    fresh: World, controller: Running, s3: S3Client
) -> None:
    with fresh.load() as load:
        fresh.start("equal", EQUAL)
        status = fresh.ends("equal", controller)
        fresh.await_replicas()
        promoted = load.versions["2"]
        wait_for(lambda: load.versions["2"] > promoted + 5, "answers of the new version")
    assert status["phase"] == "Promoted", status
    assert [entry["percent"] for entry in status["history"]] == [0, 0, 20, 50, 100, 100]
    assert [verdict["outcome"] for verdict in status["verdicts"]] == ["passed", "passed"]
    assert load.statuses.keys() == {200}
    assert load.versions.keys() == {"1", "2"}
    assert fresh.points_at() == Pointer(current=EQUAL)
    page = s3.get_object(Bucket=BUCKET, Key=ObjectRef.from_uri(status["report"]).key)["Body"].read().decode()
    assert "version 2 against 1" in page
    assert "both said the same of every object" in page


def test_a_worse_candidate_is_refused_before_any_traffic_with_the_pictures_it_is_wrong_on(
    fresh: World, controller: Running, s3: S3Client
) -> None:
    with fresh.load() as load:
        fresh.start("worse", WORSE)
        status = fresh.ends("worse", controller)
    assert status["phase"] == "RolledBack", status
    assert status["message"].startswith("refused by the backtest: accuracy failed: 1.000 ("), status["message"]
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1"})
    assert fresh.points_at() == Pointer(current=CHAMPION)
    page = s3.get_object(Bucket=BUCKET, Key=ObjectRef.from_uri(status["report"]).key)["Body"].read().decode()
    assert page.count("data:image/png;base64,") == 24
    assert "candidate <b>wrong-9</b>" in page
    assert "truth <b>class-9</b>" in page


def test_forced_past_the_backtest_the_canary_takes_it_back(fresh: World, controller: Running) -> None:
    with fresh.load() as load:
        fresh.start("forced", WORSE, forced=True)
        status = fresh.ends("forced", controller)
    assert status["phase"] == "RolledBack", status
    assert status["message"].startswith("refused at 20%: accuracy failed")
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=CHAMPION)


def test_a_candidate_that_no_replica_takes_changes_nothing(fresh: World, controller: Running) -> None:
    with fresh.load() as load:
        fresh.start("forged", FORGED)
        status = fresh.ends("forged", controller)
    assert status["phase"] == "RolledBack"
    assert "the candidate does not serve: replica" in status["message"]
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1"})


def test_an_abort_and_another_hand(fresh: World, controller: Running) -> None:
    slow = {"steps": [{"percent": 20, "dwell": "1h", "samples": 1}]}
    with fresh.load() as load:
        fresh.start("aborted", EQUAL, slow | {"deadline": "2h"})
        controller.wait_until(partial(at_its_step, fresh, "aborted"), "the first step")
        by_hand(fresh, lambda pointer: pointer.model_copy(update={"share": 70.0}))
        controller.wait_until(lambda: "another hand" in fresh.status("aborted")["message"], "the notice")
        assert fresh.points_at().share == 70
        by_hand(fresh, lambda pointer: pointer.model_copy(update={"share": 20.0}))
        controller.wait_until(lambda: "another hand" not in fresh.status("aborted")["message"], "the way back")
        fresh.send("PATCH", f"{ROLLOUTS}/aborted", {"spec": {"decision": "Abort"}})
        status = fresh.ends("aborted", controller)
    assert (status["phase"], status["message"]) == ("RolledBack", "aborted by hand")
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=CHAMPION)


def at_its_step(world: World, name: str) -> bool:
    status = world.status(name)
    return status.get("phase") == "Canary" and "arrived" in status


def by_hand(world: World, change: Callable[[Pointer], Pointer]) -> None:
    read = world.pointer.read()
    assert read is not None
    world.pointer.write(change(read.pointer), read.etag)


def test_a_malformed_rollout_is_named_and_the_others_go_on(fresh: World, controller: Running) -> None:
    fresh.send("POST", ROLLOUTS, MALFORMED)
    fresh.start("beside", EQUAL)
    status = fresh.ends("beside", controller)
    wait_for(lambda: "champion: Field required" in fresh.status("broken").get("message", ""), "the message")
    assert status["phase"] == "Promoted"
