"""Rollouts by revision on the running one-machine engine, by KServe's rules, under steady load: no request fails."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from testbed.engine import OneMachine
from testbed.kubernetes_api import KubernetesApi
from testbed.processes import Running, wait_for
from testbed.rollouts import WHOLE_WAY, Load, Rollouts, null_version, put_known_objects, steady_load
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import ANSWER, Result, ResultEvent, ResultModel, ResultObject
from whimbrel.kube.inference import Component, Phase, phase, read_status

BUCKET, NAME = "revisions", "finches"
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
PERCENT = "canaryTrafficPercent"
FIRST = null_version("1", "null:10")
EQUAL = null_version("2", "null:10,16x24")  # another preset, the same answers
WORSE = null_version("3", "null:10,wrong")
SLOW = null_version("4", "null:10,8x9,300ms")
CRASHING = null_version("5", "null:10,8x10").model_copy(update={"digest": "sha256:" + "5" * 64})
MORTAL = null_version("7", "null:10,12x12")  # the tests kill it
ABSENT = FIRST.model_copy(update={"version": "6", "uri": "s3://revisions/none", "digest": "sha256:" + "6" * 64})
AWAITED_AND_TAKEN_BACK = ["Loading", "Backtest", "Canary", "AwaitingPromotion", "RollingBack", "RolledBack"]
BY_REVISION = {"movement": "ByRevision"}


@dataclass
class World:
    rollouts: Rollouts
    gateway: str
    state: Path

    def service(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rollouts.send("GET", f"{SERVICES}/{NAME}")
        return found

    def predictor(self) -> Component:
        return read_status(self.service()).predictor

    def named(self) -> dict[str, str]:
        predictor = self.service()["spec"]["predictor"]
        return {each["name"]: each["value"] for each in predictor["containers"][0]["env"]}

    def at_percent(self, percent: int) -> None:
        self.rollouts.send("PATCH", f"{SERVICES}/{NAME}", {"spec": {"predictor": {PERCENT: percent}}})

    def load(self) -> AbstractContextManager[Load]:
        return steady_load(self.gateway, NAME, f"{NAME}.default.localhost")

    def kill(self, version: PointedVersion, load: Load, over: Callable[[], bool] = lambda: False) -> None:
        """The predictor of this version with SIGKILL, once it has answered since it began; none once it is `over`."""
        answered = load.versions[version.version]
        wait_for(lambda: load.versions[version.version] > answered or over(), "an answer of the candidate")
        killed = set() if over() else self._processes(version)
        for process in killed:
            with suppress(ProcessLookupError):  # it ends by itself on the way back
                os.kill(process, signal.SIGKILL)
        wait_for(lambda: not killed & self._processes(version), "its end")

    def _processes(self, version: PointedVersion) -> set[int]:
        """Those of the engine that were told this version: the first of each group."""
        named = f"WHIMBREL_MODEL_URI={version.uri}".encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if named in path.read_bytes().split(b"\0") and (path.parent / "cwd").readlink() == self.state:
                    found.add(os.getsid(int(path.parent.name)))
        return found

    def assert_settled(self, version: PointedVersion) -> None:
        """As Git would have it for this version: its name, no percent, and one revision with all traffic."""
        assert self.named() == naming(version)
        assert PERCENT not in self.service()["spec"]["predictor"]
        wait_for(lambda: phase(self.predictor()) is Phase.PROMOTED, "one revision")


def naming(version: PointedVersion) -> dict[str, str]:
    return {
        "WHIMBREL_MODEL_URI": version.uri,
        "WHIMBREL_MODEL_DIGEST": version.digest,
        "WHIMBREL_MODEL_VERSION": version.version,
        "WHIMBREL_START_TIMEOUT_SECONDS": "600",
    }


def inference_service() -> dict[str, Any]:
    def component(image: str, *arguments: str, **environment: str) -> dict[str, Any]:
        container = {
            "name": "kserve-container",
            "image": f"whimbrel/{image}",
            "args": list(arguments),
            "envFrom": [{"configMapRef": {"name": "whimbrel-settings"}}, {"secretRef": {"name": "whimbrel-s3"}}],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 1},
        }
        return {"minReplicas": 1, "maxReplicas": 1, "containers": [container]}

    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": NAME, "annotations": {"serving.kserve.io/enable-tag-routing": "true"}},
        "spec": {
            "predictor": component("predictors", f"--model-name={NAME}", **naming(FIRST)),
            "transformer": component("transformers", "--workers=1", WHIMBREL_REFERENCE_BUCKETS=BUCKET),
        },
    }


@pytest.fixture(scope="module")
def world(machine: OneMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    s3 = machine.s3()
    s3.create_bucket(Bucket=BUCKET)
    spec = {
        "model": NAME,
        "inferenceService": NAME,
        "champion": FIRST.model_dump(),
        "knownObjects": put_known_objects(s3, BUCKET),
        "evidence": f"s3://{BUCKET}/evidence",
        "policy": BY_REVISION,
    }
    status = machine.status()
    log = tmp_path_factory.mktemp("revisions") / "controller.log"
    environment = {name: value for name, value in status["environment"].items() if "MLFLOW" not in name}
    environment |= {"WHIMBREL_RESULTS_BUCKET": "results", "WHIMBREL_DEAD_LETTERS_BUCKET": "dead-letters"}
    rollouts = Rollouts(KubernetesApi(machine.state, machine.process), environment, log, spec)
    rollouts.send("POST", SERVICES, inference_service())
    found = World(rollouts, status["endpoints"]["gateway"], machine.state)
    try:
        wait_for(lambda: read_status(found.service()).url, "its address", 60)
        assert urlsplit(read_status(found.service()).url).hostname == f"{NAME}.default.localhost"
        yield found
    finally:
        rollouts.send("DELETE", f"{SERVICES}/{NAME}")


@pytest.fixture(scope="module")
def controller(world: World) -> Iterator[Running]:
    with world.rollouts.controller() as process:
        yield process


def test_what_does_no_good_is_taken_back_and_leaves_the_service_as_it_was(world: World, controller: Running) -> None:
    """One after the other, under one load: refused before traffic, slow, forced past it, broken, crashing."""
    latency = {"latency": {"allowed": 0.1, "tolerance": 0.4}}
    candidates: dict[str, tuple[PointedVersion, dict[str, Any], str]] = {
        "worse": (WORSE, {}, "refused by the backtest: accuracy failed: 1.000 ("),
        "slow": (SLOW, {"backtest": {"objects": 30, "gates": latency}}, "refused by the backtest: latency failed"),
        "absent": (ABSENT, {"progressDeadline": "3s"}, "the candidate was not ready within 3s; waiting for "),
        "crashing": (CRASHING, {}, "the candidate does not serve: pod finches-predictor-"),
    }
    with world.load() as load:
        for name, (candidate, policy, said) in candidates.items():
            world.rollouts.start(name, candidate, policy)
            status = world.rollouts.ends(name, controller)
            assert (status["phase"], status["message"][: len(said)]) == ("RolledBack", said)
            world.assert_settled(FIRST)
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1"})


def test_forced_past_the_backtest_the_canary_takes_it_back(world: World, controller: Running) -> None:
    with world.load() as load:
        world.rollouts.start("forced", WORSE, forced=True)
        status = world.rollouts.ends("forced", controller)
    assert status["phase"] == "RolledBack", status
    assert status["message"].startswith("refused at 20%: accuracy failed")
    assert load.statuses.keys() == {200}
    world.assert_settled(FIRST)


def test_one_kill_of_the_candidate_is_survived_and_three_are_its_end(world: World, controller: Running) -> None:
    """By its pods alone: no gate is on errors. The first kill is in the canary, and its step goes on and ends. The
    controller may look past a pod that is down for a moment: then the next kill is the end."""
    policy = {
        "steps": [{"percent": 50, "dwell": "500ms", "samples": 150}],
        "gates": {"accuracy": {"allowed": 0.01, "tolerance": 0.3}},
        "promotion": "Manual",
    }
    with world.load() as load:
        world.rollouts.start("mortal", MORTAL, policy)
        controller.wait_until(partial(world.rollouts.at_its_step, "mortal"), "the step", 120)
        world.kill(MORTAL, load)
        controller.wait_until(lambda: world.rollouts.phase("mortal") != "Canary", "the end of the step", 120)
        world.kill(MORTAL, load)
        for _ in range(7):
            world.kill(MORTAL, load, over=lambda: world.rollouts.phase("mortal") != "AwaitingPromotion")
        status = world.rollouts.ends("mortal", controller)
    assert status["phase"] == "RolledBack"
    said = "the candidate does not serve: pod finches-predictor-"
    assert status["message"].startswith(said), status
    assert re.search(r"exit code 137, [3-9] restarts", status["message"]), status
    assert [entry["phase"] for entry in status["history"]] == AWAITED_AND_TAKEN_BACK
    assert load.statuses.keys() == {200}
    world.assert_settled(FIRST)


def test_results_alone_tell_of_a_slow_candidate(world: World, controller: Running, machine: OneMachine) -> None:
    """No backtest and no shadows: what is judged is what was written about live events."""
    policy = {
        "backtest": None,
        "shadowsPerSecond": 0,
        "gates": {"latency": {"allowed": 0.1, "tolerance": 0.4}},
    }
    store, number = ResultStore(machine.s3(), "results"), count()
    world.rollouts.start("watched", EQUAL, policy)
    controller.wait_until(partial(world.rollouts.at_its_step, "watched"), "the first step", 120)

    def ended_by_what_is_written() -> bool:
        for version, milliseconds in ((FIRST, 5), (EQUAL, 50)):
            store.write(a_result(version, f"{next(number)}.png", milliseconds))
        return world.rollouts.phase("watched") == "RolledBack"

    controller.wait_until(ended_by_what_is_written, "the end of the slow candidate", 120)
    status = world.rollouts.status("watched")
    assert status["message"].startswith("refused at 20%: latency failed: ")
    assert [entry["phase"] for entry in status["history"]] == ["Loading", "Canary", "RollingBack", "RolledBack"]
    world.assert_settled(FIRST)


def a_result(version: PointedVersion, key: str, milliseconds: float) -> Result:
    return Result(
        object=ResultObject(bucket=BUCKET, key=key, etag="abc"),
        event=ResultEvent(id=key, source="s3", time=datetime.now(UTC)),
        model=ResultModel(name=NAME, version=version.version, digest=version.digest),
        predictions=(),
        timing_ms={ANSWER: milliseconds},
    )


def test_another_hand_and_an_abort(world: World, controller: Running) -> None:
    slow = {"steps": [{"percent": 20, "dwell": "1h", "samples": 1}], "deadline": "2h"}
    with world.load() as load:
        world.rollouts.start("aborted", EQUAL, slow)
        controller.wait_until(partial(world.rollouts.at_its_step, "aborted"), "the first step", 60)
        world.at_percent(70)
        controller.wait_until(lambda: "another hand" in world.rollouts.status("aborted")["message"], "the notice")
        assert world.service()["spec"]["predictor"][PERCENT] == 70
        world.at_percent(20)
        controller.wait_until(lambda: "another hand" not in world.rollouts.status("aborted")["message"], "the way back")
        world.rollouts.decide("aborted", "Abort")
        status = world.rollouts.ends("aborted", controller)
    assert (status["phase"], status["message"]) == ("RolledBack", "aborted by hand")
    assert load.statuses.keys() == {200}
    world.assert_settled(FIRST)


def test_killed_in_every_phase_an_equal_candidate_is_promoted(world: World, controller: Running) -> None:
    """Comes last: from here on the champion is another."""
    controller.stop()
    with world.load() as load:
        world.rollouts.start("killed", EQUAL)
        status = world.rollouts.ends_though_killed_in_every_phase("killed")
        promoted = load.versions["2"]
        wait_for(lambda: load.versions["2"] > promoted + 5, "answers of the new version")
    assert status["phase"] == "Promoted", status
    assert [entry["percent"] for entry in status["history"]] == WHOLE_WAY
    assert [verdict["outcome"] for verdict in status["verdicts"]] == ["passed", "passed"]
    assert (set(load.statuses), set(load.versions)) == ({200}, {"1", "2"})
    world.assert_settled(EQUAL)
