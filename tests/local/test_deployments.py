"""Deployments: which pods come and go at each step, their status, and the real kubectl with real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.engine import OneMachine
from testbed.kubernetes_api import needs_kubectl
from testbed.processes import environment, wait_for
from whimbrel.core.errors import InputRefused
from whimbrel.local.api.faults import BadRequest
from whimbrel.local.api.scale import with_scale
from whimbrel.local.control import deployments
from whimbrel.local.control.deployments import PodOf, Step
from whimbrel.local.control.door import verdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "rollout-controller"
RESOURCES = ("modelrollout.yaml", "controller.yaml")


def deployment(name: str = "web", **spec: Any) -> dict[str, Any]:
    """Of the dead-letter sink, which is ready soon."""
    container = {
        "name": "main",
        "image": "whimbrel/eventing",
        "args": ["sink", "dead-letters"],
        "envFrom": [{"configMapRef": {"name": "whimbrel-settings"}}, {"secretRef": {"name": "whimbrel-s3"}}],
        "env": [{"name": "WHIMBREL_DEAD_LETTERS_BUCKET", "value": "dead-letters"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }
    given = {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": given | spec}


NAMELESS = {
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": "whimbrel/eventing"}]}}
}


def pods(old: str = "", new: str = "", said: str = "") -> list[PodOf]:
    """One for each letter: R is ready, n is not."""
    return [
        PodOf(f"{prefix}{index}", current, letter == "R", NOW + timedelta(seconds=index), said if letter == "n" else "")
        for prefix, current, letters in (("old", False, old), ("new", True, new))
        for index, letter in enumerate(letters)
    ]


ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize(
    ("spec", "there", "ending", "expected"),
    [
        ({}, pods(), False, Step(1)),
        ({"replicas": 3}, pods(new="R"), False, Step(2)),
        ({"replicas": 1}, pods(new="nRR"), False, Step(0, ("new2", "new0"))),
        ({"replicas": 0}, pods("R", "R"), False, Step(0, ("new0", "old0"))),
        # a quarter of four: one more than wanted, one fewer ready
        ({"replicas": 4}, pods("RRRR"), False, Step(1, ("old0",))),
        ({"replicas": 4}, pods("RRR", "n"), False, Step(1)),
        ({"replicas": 4}, pods("RRR", "R"), False, Step(1, ("old0",))),
        ({"replicas": 2, "strategy": ROLLING}, pods("RR"), False, Step(1)),
        ({"replicas": 2, "strategy": ROLLING}, pods("RR", "n"), False, Step()),
        ({"replicas": 2, "strategy": ROLLING}, pods("RR", "R"), False, Step(0, ("old0",))),
        ({"replicas": 2, "strategy": ROLLING}, pods("Rn", "n"), False, Step(0, ("old1",))),
        ({"replicas": 2, "strategy": {"type": "Recreate"}}, pods("RR"), False, Step(0, ("old0", "old1"))),
        ({"replicas": 2, "strategy": {"type": "Recreate"}}, pods(), True, Step()),
        ({"replicas": 2, "strategy": {"type": "Recreate"}}, pods(), False, Step(2)),
    ],
)
def test_each_step_keeps_what_the_strategy_promises(
    spec: dict[str, Any], there: list[PodOf], ending: bool, expected: Step
) -> None:
    assert deployments.step(deployment(**spec), there, ending=ending) == expected


@pytest.mark.parametrize("strategy", [{}, ROLLING, {"type": "Recreate"}])
@pytest.mark.parametrize("replicas", [0, 1, 2, 5])
def test_every_update_comes_to_its_end(strategy: dict[str, Any], replicas: int) -> None:
    found = deployment(replicas=replicas, strategy=strategy)
    there = pods(old="R" * 3)
    for _ in range(40):
        step = deployments.step(found, there, ending=False)
        there = [pod for pod in there if pod.name not in step.end]
        made = [PodOf(f"made{len(there)}{index}", True, True, NOW) for index in range(step.make)]
        there += made
        if step == Step():
            break

    assert [pod.current for pod in there] == [True] * replicas


@pytest.mark.parametrize(
    ("there", "after_seconds", "available", "progressing"),
    [
        (pods(new="RR"), 0, "True", "NewReplicaSetAvailable"),
        (pods("RR", "n"), 5, "True", "ReplicaSetUpdated"),
        (pods("R", "n", said="no bucket"), 5, "False", "ReplicaSetUpdated"),
        (pods("RR", "n", said="no bucket"), 31, "True", "ProgressDeadlineExceeded"),
    ],
)
def test_its_status_says_how_far_it_is(
    there: list[PodOf], after_seconds: float, available: str, progressing: str
) -> None:
    found = deployment(replicas=2, progressDeadlineSeconds=30)
    found["metadata"]["generation"] = 3

    found["status"] = deployments.status(found, there, NOW + timedelta(seconds=after_seconds))

    by_type = {each["type"]: each for each in found["status"]["conditions"]}
    assert by_type["Available"]["status"] == available
    assert by_type["Progressing"]["reason"] == progressing
    assert found["status"]["observedGeneration"] == 3
    assert (deployments.unready(found) == "") == (progressing == "NewReplicaSetAvailable")
    if any(pod.said for pod in there):
        assert deployments.unready(found) == "no bucket"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replicas": 33}, "spec.replicas: "),
        ({"paused": True}, "spec.paused"),
        (NAMELESS, "spec.template.spec.containers[0].name: "),
        ({"selector": {"matchLabels": {"app": "other"}}}, "expected labels of its own template"),
        ({"strategy": {"rollingUpdate": {"maxSurge": "half"}}}, "expected a number or a percentage"),
        ({"strategy": {"type": "Recreate", "rollingUpdate": {}}}, "expected no rollingUpdate"),
    ],
)
def test_what_cannot_work_is_refused_by_its_path(change: dict[str, Any], said: str) -> None:
    try:
        refused = ", ".join(verdict(deployment(**change)).refused)
    except InputRefused as error:
        refused = str(error)
    assert said in refused


def test_a_template_as_kubectl_writes_it_is_taken() -> None:
    found = deployment(strategy={})
    found["spec"]["template"]["metadata"]["creationTimestamp"] = None
    found["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    assert verdict(found).refused == ()
    assert deployments.template_of(found) == deployments.template_of(deployment())


@pytest.mark.parametrize("scale", [[], {"spec": "three"}, {"spec": {"replicas": "3"}}, {"metadata": "of another"}])
def test_a_scale_that_is_none_is_refused(scale: Any) -> None:
    with pytest.raises(BadRequest, match="expected"):
        with_scale(deployment(), scale)


def test_the_rollout_controller_of_the_manifests_is_taken() -> None:
    documents = [each for name in RESOURCES for each in yaml.safe_load_all((COMPONENT / name).read_text())]
    for found in documents:
        assert verdict(found).refused == (), found["kind"]


# On real processes, by kubectl

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(machine: OneMachine) -> Kubectl:
    def run(*arguments: str, given: Any = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(machine.state / "kubeconfig"), *arguments],
            input=None if given is None else json.dumps(given),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"

    return run


@needs_kubectl
def test_kubectl_rolls_out_scales_and_restarts_it(kubectl: Kubectl, machine: OneMachine) -> None:
    kubectl("apply", "-f", "-", given=deployment(replicas=2))
    rolled_out = kubectl("rollout", "status", "deploy/web", "--timeout=240s")
    before = kubectl("get", "pods", "--selector=app=web", "-o", "name").split()
    kubectl("scale", "deploy/web", "--replicas=1", "--current-replicas=2")
    scaled = kubectl("rollout", "status", "deploy/web", "--timeout=240s")
    kubectl("rollout", "restart", "deploy/web")
    restarted = kubectl("rollout", "status", "deploy/web", "--timeout=240s")
    after = kubectl("get", "pods", "--selector=app=web", "-o", "name").split()
    mistaken = kubectl("scale", "deploy/web", "--replicas=1", "--current-replicas=2")
    too_many = kubectl("scale", "deploy/web", "--replicas=1000")
    kubectl("delete", "deploy", "web")

    assert all("successfully rolled out" in each for each in (rolled_out, scaled, restarted))
    assert len(before) == 2 and len(after) == 1 and not {*before} & {*after}
    assert "refused" in mistaken and "Expected replicas" in mistaken
    assert "refused" in too_many and "spec.replicas" in too_many
    gone = "no process of it to be left"
    wait_for(lambda: "web" not in {each["name"] for each in machine.status()["components"]}, gone)


@needs_kubectl
def test_kubectl_tells_the_history_and_goes_back(kubectl: Kubectl) -> None:
    def rolled_out(seconds: str, cause: str) -> None:
        found = deployment("back", revisionHistoryLimit=2)
        found["metadata"]["annotations"] = {"kubernetes.io/change-cause": cause}
        found["spec"]["template"]["metadata"]["annotations"] = {"whimbrel.dev/command": f"sleep {seconds}"}
        found["spec"]["template"]["spec"] = {"containers": [{"name": "main", "image": "sleeps"}]}
        kubectl("apply", "-f", "-", given=found)
        assert "successfully rolled out" in kubectl("rollout", "status", "deploy/back", "--timeout=240s")

    def history() -> list[list[str]]:
        return [line.split() for line in kubectl("rollout", "history", "deploy/back").splitlines()[2:] if line]

    def command() -> str:
        path = r"jsonpath={.items[*].metadata.annotations.whimbrel\.dev/command}"
        return kubectl("get", "pods", "--selector=app=back", "-o", path)

    for seconds in ("1001", "1002", "1003"):
        rolled_out(seconds, f"for-{seconds}")
    assert history() == [["1", "for-1001"], ["2", "for-1002"], ["3", "for-1003"]]
    assert "sleep 1002" in kubectl("rollout", "history", "deploy/back", "--revision=2")
    back = kubectl("rollout", "undo", "deploy/back")
    assert "successfully rolled out" in kubectl("rollout", "status", "deploy/back", "--timeout=240s")
    assert (back.strip(), command()) == ("deployment.apps/back rolled back", "sleep 1002")
    assert history() == [["1", "for-1001"], ["3", "for-1003"], ["4", "for-1002"]]
    kubectl("rollout", "undo", "deploy/back", "--to-revision=1")
    assert "successfully rolled out" in kubectl("rollout", "status", "deploy/back", "--timeout=240s")
    assert command() == "sleep 1001"
    rolled_out("1004", "for-1004")
    kept = [["4", "for-1002"], ["5", "for-1001"], ["6", "for-1004"]]
    wait_for(lambda: history() == kept, "the end of the oldest")
    assert "unable to find" in kubectl("rollout", "undo", "deploy/back", "--to-revision=3")
    assert "apply a Deployment" in kubectl("create", "-f", "-", given=replica_set())
    kubectl("delete", "deploy", "back")
    wait_for(lambda: not kubectl("get", "rs", "--selector=app=back", "-o", "name"), "the end of its ReplicaSets")


def replica_set() -> dict[str, Any]:
    found = deployment("own")
    return found | {"kind": "ReplicaSet"}


def listening(log: str) -> str:
    """A log as soon as it says so."""
    return log if "listening on" in log else ""


@needs_kubectl
def test_kubectl_tells_the_log_of_each_run_from_that_of_the_one_before(kubectl: Kubectl, machine: OneMachine) -> None:
    kubectl("apply", "-f", "-", given=deployment("logged"))
    kubectl("rollout", "status", "deploy/logged", "--timeout=240s")
    said = wait_for(lambda: listening(kubectl("logs", "deploy/logged")), "the log of its process")
    none_before = kubectl("logs", "--previous", "deploy/logged")
    machine.kill("logged")

    def next_log() -> str:
        found = listening(kubectl("logs", "deploy/logged"))
        return "" if found.startswith(said) else found

    said_next = wait_for(next_log, "the log of its next process")
    said_before = kubectl("logs", "--previous", "deploy/logged")
    kubectl("delete", "deploy", "logged")

    assert "no previous log is kept" in none_before
    assert said_before.startswith(said)
    assert said not in said_next


SINGLE = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
try:
    (here / "alive").open("x").close()
except FileExistsError:
    (here / "twice").touch()
def end(*_):
    time.sleep(0.5)
    (here / "alive").unlink()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(here / os.environ["POD"]).touch()
while True:
    signal.pause()
"""


@needs_kubectl
def test_one_that_is_recreated_never_runs_twice(kubectl: Kubectl, tmp_path: Path) -> None:
    """Its processes take their time to end."""
    (tmp_path / "single.py").write_text(SINGLE)
    found = deployment("single", strategy={"type": "Recreate"})
    command = {"whimbrel.dev/command": f"{sys.executable} {tmp_path / 'single.py'} {tmp_path}"}
    found["spec"]["template"]["metadata"]["annotations"] = command
    env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    found["spec"]["template"]["spec"] = {"containers": [{"name": "main", "image": "single", "env": env}]}
    kubectl("apply", "-f", "-", given=found)
    wait_for(lambda: len([*tmp_path.glob("single-*")]) == 1, "the first")
    kubectl("rollout", "restart", "deploy/single")
    wait_for(lambda: len([*tmp_path.glob("single-*")]) == 2, "the second")
    kubectl("delete", "deploy", "single")

    assert not (tmp_path / "twice").exists()
