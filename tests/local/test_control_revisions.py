"""What follows from the stored objects for revisions: traffic, their bounds, their ends; on a real storage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from testbed.control import OVERLAY, Machine, containers, controlled, service
from whimbrel.core.kustomize import render
from whimbrel.local.api import kinds
from whimbrel.local.applying import apply
from whimbrel.local.control import names
from whimbrel.local.control.door import verdict


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with controlled(tmp_path) as found:
        yield found


@pytest.fixture
def overlay(machine: Machine) -> Machine:
    apply(machine.storage, verdict, render(OVERLAY))
    machine.settle()
    return machine


def shares(machine: Machine, host: str = "one-predictor.default.localhost") -> dict[str, int]:
    found: Counter[str] = Counter()
    for weight, (_, revision) in machine.route(host).shares:
        found[revision] += weight
    return dict(found)


def test_a_canary_from_the_first_revision_to_the_rollback(machine: Machine) -> None:
    machine.apply(service())
    machine.settle()
    first, second, third = (f"one-predictor-0000{number}" for number in (1, 2, 3))
    assert shares(machine) == {first: 100}

    machine.patch("one", containers=containers("--model-name=two"), canaryTrafficPercent=20)
    machine.once()
    assert shares(machine) == {first: 100}, "the second one is not ready yet"
    machine.settle()
    assert shares(machine) == {second: 20, first: 80}
    assert shares(machine, "prev-one-predictor.default.localhost") == {first: 100}
    assert shares(machine, "latest-one-predictor.default.localhost") == {second: 100}

    machine.patch("one", canaryTrafficPercent=0)
    machine.settle()
    assert shares(machine) == {first: 100}

    machine.patch("one", canaryTrafficPercent=None)
    machine.settle()
    assert shares(machine) == {second: 100}
    component = machine.get(kinds.INFERENCE_SERVICE, "one")["status"]["components"]["predictor"]
    assert (component["latestRolledoutRevision"], component["previousRolledoutRevision"]) == (second, first)

    machine.patch("one", canaryTrafficPercent=0)
    machine.settle()
    assert shares(machine) == {first: 100}, "after a promotion 0 is a rollback"

    machine.patch("one", containers=containers("--model-name=three"), canaryTrafficPercent=None)
    machine.settle()
    assert shares(machine) == {third: 100}


def test_a_broken_revision_never_takes_traffic_and_an_old_template_ends_it(machine: Machine) -> None:
    machine.apply(service())
    machine.settle()
    machine.broken.add("one-predictor-00002")

    machine.patch("one", containers=containers("--broken"))
    machine.settle()

    assert shares(machine) == {"one-predictor-00001": 100}
    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "Unknown"
    assert machine.condition(kinds.INFERENCE_SERVICE, "one", "PredictorRouteReady") == "True"
    status = machine.get(kinds.INFERENCE_SERVICE, "one")["status"]
    assert status["modelStatus"]["lastFailureInfo"]["exitCode"] == 3
    assert status["components"]["predictor"]["latestReadyRevision"] == "one-predictor-00001"

    machine.patch("one", containers=containers("--model-name=one"))
    machine.settle()

    assert shares(machine) == {"one-predictor-00003": 100}
    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "True"
    running = {names.labels_of(pod)[names.REVISION_LABEL] for pod, _ in machine.outcome.pods}
    assert "one-predictor-00002" not in running


def test_past_its_deadline_a_revision_has_failed_and_its_processes_stop(machine: Machine) -> None:
    machine.broken.add("one-predictor-00001")
    machine.apply(service(annotations={names.PROGRESS_DEADLINE: "30s"}))
    machine.settle()
    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "Unknown"

    machine.now += timedelta(seconds=31)
    machine.settle()

    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "False"
    assert machine.outcome.pods == []
    assert "no such model" in machine.outcome.unready[0]


def test_the_conditions_are_those_of_a_cluster(overlay: Machine) -> None:
    captured = Path(__file__).parents[1] / "data" / "kserve" / "status" / "14-promoted-8s.json"
    wanted = json.loads(captured.read_text())["status"]

    seen = overlay.get(kinds.INFERENCE_SERVICE, "digits")["status"]

    def shape(status: Any) -> list[tuple[str, str, str | None]]:
        return [(each["type"], each["status"], each.get("severity")) for each in status["conditions"]]

    assert shape(seen) == shape(wanted)
    assert set(seen) == set(wanted)
    component = set(wanted["components"]["predictor"]) - {"previousRolledoutRevision"}
    assert set(seen["components"]["predictor"]) == component
    assert seen["modelStatus"]["transitionStatus"] == wanted["modelStatus"]["transitionStatus"]


def test_old_revisions_are_kept_up_to_a_bound(machine: Machine) -> None:
    machine.apply(service())
    for number in range(25):
        machine.patch("one", containers=containers(f"--model-name=n{number}"))
        machine.settle()

    kept = [each["metadata"]["name"] for each in machine.storage.list(kinds.REVISION)]

    assert len(kept) == 22
    assert "one-predictor-00025" in kept
    assert "one-predictor-00001" not in kept


def test_a_deleted_service_leaves_nothing(overlay: Machine) -> None:
    overlay.storage.delete(kinds.INFERENCE_SERVICE, "default", "digits")
    overlay.settle()

    left = [*overlay.storage.list(kinds.REVISION), *overlay.storage.list(kinds.POD)]
    assert [each["metadata"]["name"] for each in left if "digits" in each["metadata"]["name"]] == []
    assert "digits-predictor.default.localhost" not in {each.host for each in overlay.outcome.routes}


def test_the_autoscaler_decides_between_the_bounds_and_the_machine_has_the_last_word(machine: Machine) -> None:
    machine.apply(service(minReplicas=0, maxReplicas=8))
    machine.settle()
    key = ("default", "one-predictor-00001")
    (plan,) = machine.outcome.revisions
    assert (plan.scaling.least, plan.scaling.most, plan.fixed) == (0, 8, None)

    for wanted, running in ((0, 0), (2, 2), (7, 4), (1, 1)):
        machine.replicas[key] = wanted
        machine.settle()
        assert len(machine.storage.list(kinds.POD)) == running


def test_a_revision_that_has_just_become_ready_keeps_its_process(machine: Machine) -> None:
    machine.apply(service(minReplicas=0))
    machine.once()
    (first,) = machine.storage.list(kinds.POD)

    machine.settle()

    (now,) = machine.storage.list(kinds.POD)
    assert now["metadata"]["uid"] == first["metadata"]["uid"]


def test_an_object_that_cannot_be_read_stops_no_other(machine: Machine) -> None:
    machine.storage.create(kinds.INFERENCE_SERVICE, {"metadata": {"name": "odd"}, "spec": {"predictor": {"none": 1}}})
    machine.apply(service())
    machine.settle()

    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "True"
    assert any(each.startswith("InferenceService default/odd") for each in machine.outcome.unready)
