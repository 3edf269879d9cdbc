"""A step that fails leaves what runs as it is, and what a Deployment was stays known; on a real storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.control import Machine, controlled, service
from whimbrel.local.api import kinds
from whimbrel.local.api.kinds import Kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import names, replica_sets, routing
from whimbrel.local.control.retries import Retries
from whimbrel.local.control.routing import RoutePlan
from whimbrel.local.control.world import World


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with controlled(tmp_path) as found:
        yield found


ALWAYS_ON = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: watcher}
spec:
  selector: {matchLabels: {app: watcher}}
  template:
    metadata: {labels: {app: watcher}}
    spec: {containers: [{name: watcher, image: whimbrel/eventing, args: [source, sqs]}]}
"""


STEADY = """
apiVersion: sources.knative.dev/v1
kind: ContainerSource
metadata: {name: steady}
spec:
  sink: {uri: "http://somewhere/path"}
  template: {spec: {containers: [{name: source, image: whimbrel/eventing, args: [source, sqs]}]}}
"""
PLAIN = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: plain}
spec: {template: {spec: {containers: [{image: whimbrel/predictors}]}}}
"""


def asked_for(machine: Machine) -> tuple[list[tuple[tuple[str, str], str]], list[Any], list[RoutePlan]]:
    """What runs, how many of each revision, and what leads to them."""
    outcome = machine.outcome
    running = sorted((names.of(pod), kind) for pod, kind in outcome.pods)
    return running, sorted(outcome.revisions, key=str), sorted(outcome.routes, key=str)


@pytest.mark.parametrize(
    ("kind", "name", "damage"),
    [
        (kinds.REVISION, "one-predictor-00001", {"containerConcurrency": "many"}),
        (kinds.KNATIVE_SERVICE, "plain", {"traffic": [{"percent": "much"}]}),
        (kinds.DEPLOYMENT, "watcher", {"strategy": {"rollingUpdate": {"maxSurge": "most"}}}),
        (kinds.CONTAINER_SOURCE, "steady", {"sink": {"ref": {}}}),
    ],
)
def test_a_step_that_fails_leaves_what_runs_as_it_is(
    machine: Machine, kind: Kind, name: str, damage: dict[str, Any]
) -> None:
    machine.apply(service(), PLAIN, ALWAYS_ON, STEADY)
    machine.settle()
    before = asked_for(machine)
    assert [len(each) for each in before] == [4, 2, 4]
    machine.storage.modify(kind, "default", name, lambda found: {**found, "spec": found["spec"] | damage})
    machine.once()

    assert asked_for(machine) == before
    assert len(machine.outcome.failed) == 1
    (told,) = machine.outcome.happened
    assert (told[0]["metadata"]["name"], told[1:3]) == (name.removesuffix("-00001"), ("Warning", "InternalError"))

    machine.resting = frozenset(machine.outcome.failed)
    machine.once()
    assert (asked_for(machine), machine.outcome.failed, machine.outcome.happened) == (before, set(), [])
    assert any("is tried again" in each for each in machine.outcome.unready)


def test_a_route_that_cannot_be_told_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.apply(service(), PLAIN)
    machine.settle()
    before = asked_for(machine)

    def fails(*_: Any) -> Any:
        raise ValueError("a defect")

    monkeypatch.setattr(routing, "routes", fails)
    machine.once()
    assert asked_for(machine) == before
    assert {step for *_, step in machine.outcome.failed} == {"_routes"}


def test_what_fails_is_tried_again_later_and_later_and_at_once_when_it_is_changed() -> None:
    retries, first, changed = Retries(), ("uid", 1, "step"), ("uid", 2, "step")
    assert retries.note((), {first}, now=0.0) == 1
    assert retries.resting(0.5) == {first}
    assert not retries.resting(1.0)
    assert retries.note({first}, (), now=0.5) is None  # it rested
    assert [retries.note((), {first}, now=100.0 * n) for n in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]
    assert changed not in retries.resting(700.0)
    assert retries.note({first}, {changed}, now=700.0) == 1
    assert retries.note({first}, (), now=700.5) is None  # the changed one went well
    assert retries.note((), {changed}, now=702.0) == 1


def test_replica_sets_keep_the_templates_of_a_deployment_and_their_order(machine: Machine) -> None:
    def asks(name: str) -> None:
        def changed(found: Object) -> Object:
            found["spec"]["template"]["spec"]["containers"][0]["args"] = [name]
            found["spec"]["revisionHistoryLimit"] = 2
            return found

        machine.storage.modify(kinds.DEPLOYMENT, "default", "watcher", changed)
        machine.settle()

    def kept() -> dict[str, tuple[int, int]]:
        """Number and replicas, by what the template asks for."""
        found = machine.storage.list(kinds.REPLICA_SET)
        args = [each["spec"]["template"]["spec"]["containers"][0]["args"][0] for each in found]
        told = [(replica_sets.number(each), each["status"]["replicas"]) for each in found]
        return dict(zip(args, told, strict=True))

    machine.apply(ALWAYS_ON)
    machine.settle()
    for name in "abc":
        asks(name)
    assert kept() == {"a": (2, 0), "b": (3, 0), "c": (4, 1)}
    asks("b")
    assert kept() == {"a": (2, 0), "b": (5, 1), "c": (4, 0)}
    deployment = machine.get(kinds.DEPLOYMENT, "watcher")
    assert names.annotations_of(deployment)[replica_sets.REVISION] == "5"


BOUND = """
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata: {name: bound}
spec: {sink: {uri: "http://somewhere"}, subject: {apiVersion: apps/v1, kind: Deployment, name: watcher}}
"""


def test_replica_sets_count_the_pods_that_a_sink_binding_gives_its_sink(machine: Machine) -> None:
    def counts() -> dict[str, int]:
        found = sorted(machine.storage.list(kinds.REPLICA_SET), key=replica_sets.number)
        return {str(replica_sets.number(each)): each["status"]["replicas"] for each in found}

    machine.apply(BOUND, ALWAYS_ON)
    machine.settle()
    assert counts() == {"1": 1}
    machine.apply(ALWAYS_ON.replace("sqs", "amqp"))
    machine.once()  # the new pod is not ready yet
    assert counts() == {"1": 1, "2": 1}
    machine.settle()
    assert counts() == {"1": 0, "2": 1}
    machine.apply(BOUND.replace("somewhere", "elsewhere"))
    machine.once()
    assert counts() == {"1": 0, "2": 2}


def test_a_number_of_a_replica_set_that_somebody_wrote_over_is_given_again(machine: Machine) -> None:
    machine.apply(ALWAYS_ON)
    machine.settle()
    (found,) = World(machine.storage).of(kinds.REPLICA_SET)
    World(machine.storage).annotate(kinds.REPLICA_SET, found, {replica_sets.REVISION: "many"})
    machine.once()
    assert machine.outcome.failed == set()
    assert [replica_sets.number(each) for each in machine.storage.list(kinds.REPLICA_SET)] == [1]


def test_an_annotation_undoes_no_change_that_was_made_meanwhile(machine: Machine) -> None:
    machine.apply(ALWAYS_ON)
    world = World(machine.storage)
    (found,) = world.of(kinds.DEPLOYMENT)
    machine.storage.modify(
        kinds.DEPLOYMENT, "default", "watcher", lambda now: {**now, "spec": now["spec"] | {"replicas": 3}}
    )
    world.annotate(kinds.DEPLOYMENT, found, {"noted": "here"})
    now = machine.get(kinds.DEPLOYMENT, "watcher")
    assert (now["spec"]["replicas"], names.annotations_of(now)["noted"]) == (3, "here")
