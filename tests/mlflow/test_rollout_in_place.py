"""Rollouts in place against real processes: an API server, a store, a predictor on a pointer, a transformer, load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from testbed.kubernetes_api import kubernetes_api
from testbed.predictors import running_predictor
from testbed.processes import Running, wait_for
from testbed.rollouts import PATH, WHOLE_WAY, Load, Rollouts, null_version, put_known_objects, steady_load
from testbed.stores import Store
from testbed.transformers import running_transformer
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.references import ObjectRef

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "rollouts"
CHAMPION = null_version("1", "null:10")
EQUAL = null_version("2", "null:10,16x24")  # another preset, the same answers
WORSE = null_version("3", "null:10,wrong")
ABSENT = PointedVersion(version="4", uri=f"s3://{BUCKET}/none", digest="sha256:" + "4" * 64)
REFUSED = ["Loading", "Backtest", "RollingBack", "RolledBack"]
MALFORMED = {
    "apiVersion": "rollout.whimbrel.dev/v1",
    "kind": "ModelRollout",
    "metadata": {"name": "broken", "namespace": "default"},
    "spec": {"model": "digits"},
}
FORGED = null_version("5", "null:10,8x8").model_copy(update={"digest": "sha256:" + "5" * 64})


@dataclass
class World:
    rollouts: Rollouts
    pointer: PointerStore
    transformer_url: str

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

    def load(self) -> AbstractContextManager[Load]:
        return steady_load(self.transformer_url, "digits")


@pytest.fixture(scope="module")
def world(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    logs = tmp_path_factory.mktemp("rollouts")
    s3 = store.s3()
    s3.create_bucket(Bucket=BUCKET)
    known = put_known_objects(s3, BUCKET)
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
        spec = {
            "model": "digits",
            "inferenceService": "digits",
            "champion": CHAMPION.model_dump(),
            "pointer": pointer.place.uri,
            "knownObjects": known,
            "evidence": f"s3://{BUCKET}/evidence",
        }
        rollouts = Rollouts(api, environment, logs / "controller.log", spec)
        _serve(rollouts, transformer.url)
        yield World(rollouts, pointer, transformer.url)


def _serve(rollouts: Rollouts, url: str) -> None:
    """An InferenceService whose address is the transformer's; nothing here runs it."""
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
    container = {"name": "kserve-container", "image": "whimbrel/predictors"}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {"predictor": {"containers": [container]}},
    }
    rollouts.send("POST", path, service)
    rollouts.send("PATCH", f"{path}/digits/status", {"status": {"url": url}})


@pytest.fixture
def fresh(world: World) -> World:
    world.back_to(CHAMPION)
    return world


def test_a_controller_that_is_killed_in_every_phase_is_gone_on_from(fresh: World) -> None:
    """At the end two of them: they do no harm. Comes before the one that all other tests share."""
    with fresh.load() as load:
        fresh.rollouts.start("killed", EQUAL)
        status = fresh.rollouts.ends_though_killed_in_every_phase("killed")
    assert status["phase"] == "Promoted", status
    assert [entry["percent"] for entry in status["history"]] == WHOLE_WAY
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=EQUAL)


@pytest.fixture(scope="module")
def controller(world: World) -> Iterator[Running]:
    with world.rollouts.controller() as process:
        yield process


def test_an_equal_candidate_is_promoted_under_load_and_no_request_fails(
    fresh: World, controller: Running, s3: S3Client
) -> None:
    with fresh.load() as load:
        fresh.rollouts.start("equal", EQUAL)
        status = fresh.rollouts.ends("equal", controller)
        fresh.await_replicas()
        promoted = load.versions["2"]
        wait_for(lambda: load.versions["2"] > promoted + 5, "answers of the new version")
    assert status["phase"] == "Promoted", status
    assert [entry["percent"] for entry in status["history"]] == WHOLE_WAY
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
        fresh.rollouts.start("worse", WORSE)
        status = fresh.rollouts.ends("worse", controller)
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
        fresh.rollouts.start("forced", WORSE, forced=True)
        status = fresh.rollouts.ends("forced", controller)
    assert status["phase"] == "RolledBack", status
    assert status["message"].startswith("refused at 20%: accuracy failed")
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=CHAMPION)


def test_a_candidate_that_no_replica_takes_changes_nothing(fresh: World, controller: Running) -> None:
    with fresh.load() as load:
        fresh.rollouts.start("forged", FORGED)
        status = fresh.rollouts.ends("forged", controller)
    assert status["phase"] == "RolledBack"
    assert "the candidate does not serve: replica" in status["message"]
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1"})


def test_an_abort_and_another_hand(fresh: World, controller: Running) -> None:
    slow = {"steps": [{"percent": 20, "dwell": "1h", "samples": 1}]}
    with fresh.load() as load:
        fresh.rollouts.start("aborted", EQUAL, slow | {"deadline": "2h"})
        controller.wait_until(partial(fresh.rollouts.at_its_step, "aborted"), "the first step")
        by_hand(fresh, lambda pointer: pointer.model_copy(update={"share": 70.0}))
        controller.wait_until(lambda: "another hand" in fresh.rollouts.status("aborted")["message"], "the notice")
        assert fresh.points_at().share == 70
        by_hand(fresh, lambda pointer: pointer.model_copy(update={"share": 20.0}))
        controller.wait_until(lambda: "another hand" not in fresh.rollouts.status("aborted")["message"], "the way back")
        fresh.rollouts.decide("aborted", "Abort")
        status = fresh.rollouts.ends("aborted", controller)
    assert (status["phase"], status["message"]) == ("RolledBack", "aborted by hand")
    assert load.statuses.keys() == {200}
    assert fresh.points_at() == Pointer(current=CHAMPION)


def test_one_that_waits_for_its_champion_leaves_the_traffic_where_it_is(fresh: World, controller: Running) -> None:
    fresh.back_to(EQUAL)
    fresh.rollouts.start("waiting", WORSE)
    said = f"expected the traffic at {CHAMPION.version} alone, seen {EQUAL.version} alone"
    controller.wait_until(lambda: said in fresh.rollouts.status("waiting").get("message", ""), "the reason")
    fresh.rollouts.decide("waiting", "Abort")
    status = fresh.rollouts.ends("waiting", controller)
    assert status["message"] == "aborted by hand before it began"
    assert fresh.points_at() == Pointer(current=EQUAL)


def aborted_without_its_pointer(world: World, controller: Running, name: str, deadline: str, s3: S3Client) -> str:
    """The pointer's content as it was. The InferenceService is none, so the rollout waits in its backtest."""
    key = f"{name}/pointer.json"
    pointer = PointerStore(s3, ObjectRef(BUCKET, key))
    pointer.write(Pointer(current=CHAMPION), None)
    spec = {"pointer": pointer.place.uri, "inferenceService": "none"}
    world.rollouts.start(name, EQUAL, {"progressDeadline": deadline, "deadline": "2h"}, **spec)
    controller.wait_until(lambda: world.rollouts.phase(name) == "Backtest", "the backtest")
    content = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
    s3.delete_object(Bucket=BUCKET, Key=key)
    world.rollouts.decide(name, "Abort")
    said = f"expected a model pointer at {pointer.place.uri}, seen none"
    controller.wait_until(lambda: said in world.rollouts.status(name)["message"], "the reason")
    return content


def test_an_abort_ends_one_whose_pointer_is_gone_for_long(fresh: World, controller: Running, store: Store) -> None:
    aborted_without_its_pointer(fresh, controller, "gone", "1s", store.s3())
    status = fresh.rollouts.ends("gone", controller)
    assert status["message"].startswith("aborted by hand, the traffic left: expected a model pointer")


def test_an_abort_takes_back_the_traffic_of_a_pointer_that_returns(
    fresh: World, controller: Running, store: Store
) -> None:
    s3 = store.s3()
    content = aborted_without_its_pointer(fresh, controller, "returning", "1h", s3)
    assert EQUAL.uri in content
    s3.put_object(Bucket=BUCKET, Key="returning/pointer.json", Body=content.encode())
    assert fresh.rollouts.ends("returning", controller)["message"] == "aborted by hand"
    read = PointerStore(s3, ObjectRef(BUCKET, "returning/pointer.json")).read()
    assert read is not None
    assert read.pointer == Pointer(current=CHAMPION)


def test_an_abort_ends_one_that_never_saw_its_traffic(fresh: World, controller: Running) -> None:
    fresh.rollouts.start("nowhere", EQUAL, pointer=f"s3://{BUCKET}/none/pointer.json", inferenceService="none")
    said = f"expected a model pointer at s3://{BUCKET}/none/pointer.json"
    controller.wait_until(lambda: said in fresh.rollouts.status("nowhere").get("message", ""), "the reason")
    fresh.rollouts.decide("nowhere", "Abort")
    assert fresh.rollouts.ends("nowhere", controller)["message"] == "aborted by hand before it began"


def by_hand(world: World, change: Callable[[Pointer], Pointer]) -> None:
    read = world.pointer.read()
    assert read is not None
    world.pointer.write(change(read.pointer), read.etag)


def test_two_of_the_same_traffic_take_turns_also_with_two_controllers(fresh: World, controller: Running) -> None:
    """Both are refused by their backtests, so each finds the traffic at the champion."""
    with fresh.load() as load, fresh.rollouts.controller():
        for name in ("twin-b", "twin-a"):
            fresh.rollouts.start(name, WORSE)
        first, second = sorted(
            (fresh.rollouts.ends(name, controller) for name in ("twin-b", "twin-a")),
            key=lambda status: status["started"],
        )
    for status in (first, second):
        assert [entry["phase"] for entry in status["history"]] == REFUSED
        assert status["message"].startswith("refused by the backtest: accuracy failed"), status["message"]
    assert datetime.fromisoformat(first["ended"]) <= datetime.fromisoformat(second["started"])
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1"})
    assert fresh.points_at() == Pointer(current=CHAMPION)


def test_a_malformed_rollout_is_named_and_the_others_go_on(fresh: World, controller: Running) -> None:
    fresh.rollouts.send("POST", PATH, MALFORMED)
    fresh.rollouts.start("beside", EQUAL)
    status = fresh.rollouts.ends("beside", controller)
    wait_for(lambda: "champion: Field required" in fresh.rollouts.status("broken").get("message", ""), "the message")
    assert status["phase"] == "Promoted"
