"""What follows from the project's own manifests: pods, addresses, the broker's view, statuses; on a real storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from testbed.control import BROKER_PORT, MACHINE, OVERLAY, Machine, containers, controlled, service
from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import render
from whimbrel.local import embedded
from whimbrel.local.api import kinds
from whimbrel.local.applying import apply
from whimbrel.local.control import names
from whimbrel.local.control.door import verdict
from whimbrel.local.control.world import World
from whimbrel.local.environment import machine_environment
from whimbrel.local.settling import Settling, settling


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with controlled(tmp_path) as found:
        yield found


@pytest.fixture
def overlay(machine: Machine) -> Machine:
    apply(machine.storage, verdict, render(OVERLAY))
    machine.settle()
    return machine


def test_everything_of_the_overlay_becomes_ready(overlay: Machine) -> None:
    assert overlay.outcome.unready == []
    for kind, name in [
        (kinds.INFERENCE_SERVICE, "digits"),
        (kinds.KNATIVE_SERVICE, "digits-transformer"),
        (kinds.BROKER, "default"),
        (kinds.TRIGGER, "predictions"),
        (kinds.CONTAINER_SOURCE, "objects"),
    ]:
        assert overlay.condition(kind, name) == "True"


def test_a_pass_over_what_has_settled_writes_nothing(overlay: Machine) -> None:
    before = overlay.storage.version
    overlay.once()
    assert overlay.storage.version == before


def test_a_service_shows_its_configuration_and_its_route(machine: Machine) -> None:
    machine.apply(service())
    machine.settle()
    machine.patch("one", containers=containers("--b"), canaryTrafficPercent=20)
    machine.settle()

    name = "one-predictor"
    of_service = machine.get(kinds.KNATIVE_SERVICE, name)
    configuration, route = machine.get(kinds.CONFIGURATION, name), machine.get(kinds.ROUTE, name)
    assert machine.condition(kinds.CONFIGURATION, name) == machine.condition(kinds.ROUTE, name) == "True"
    assert configuration["status"]["latestReadyRevisionName"] == "one-predictor-00002"
    assert configuration["spec"]["template"] == of_service["spec"]["template"]
    assert [each["percent"] for each in route["status"]["traffic"]] == [20, 80]
    assert route["status"]["url"] == of_service["status"]["url"]
    with pytest.raises(InputRefused, match="apply a Knative Service"):
        verdict(route)

    machine.storage.delete(kinds.INFERENCE_SERVICE, "default", "one")
    machine.once()
    assert machine.storage.list(kinds.CONFIGURATION) == machine.storage.list(kinds.ROUTE) == []


def test_what_runs_goes_on_while_nothing_can_be_written(machine: Machine, tmp_path: Path) -> None:
    machine.apply(service())
    machine.settle()
    before = {names.of(pod) for pod, _ in machine.outcome.pods}
    revisions = [plan.key for plan in machine.outcome.revisions]
    with closing(sqlite3.connect(tmp_path / "objects.db", isolation_level=None)) as other:
        for change in ("INSERT", "UPDATE", "DELETE"):
            other.execute(
                f"CREATE TRIGGER no_{change} BEFORE {change} ON objects BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
    machine.seen, machine.replicas = {}, dict.fromkeys(revisions, 3)

    machine.once()

    assert before
    assert {names.of(pod) for pod, _ in machine.outcome.pods} == before
    assert [plan.key for plan in machine.outcome.revisions] == revisions
    assert machine.outcome.routes


def test_a_transformer_is_given_what_kserve_gives(overlay: Machine) -> None:
    transformer = overlay.workload("digits-transformer")

    assert transformer.command[1:] == ("-m", "whimbrel.transformers")
    host = f"127.0.0.1:{overlay.ports['digits-predictor']}"
    given = ("--model_name", "digits", "--predictor_host", host, "--http_port", "$(PORT)")
    assert transformer.arguments == (*given, "--workers=1")
    assert transformer.probe is not None


def test_a_process_has_its_declared_environment_and_no_more(overlay: Machine) -> None:
    predictor = overlay.workload("digits-predictor")

    declared = MACHINE | embedded.settings_environment(1, 2)
    assert predictor.environment.items() >= declared.items()
    knative = {"K_SERVICE": "digits-predictor", "K_REVISION": "digits-predictor-00001"}
    assert predictor.environment.items() >= knative.items()
    own = {"K_CONFIGURATION", "WHIMBREL_MODEL_URI", "WHIMBREL_DRAIN_SECONDS", "WHIMBREL_HTTP_HOST"}
    own |= {"WHIMBREL_POINTER_POLL_SECONDS", "WHIMBREL_POINTER_LEASE_SECONDS"}
    assert set(predictor.environment) == {*declared, *knative, *own}
    assert predictor.environment["WHIMBREL_HTTP_HOST"] == "127.0.0.1"
    assert predictor.grpc


def test_the_machines_environment_holds_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_S3_ENDPOINT", "http://elsewhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    found = machine_environment()

    assert (found["LC_ALL"], found["PYTHONSAFEPATH"]) == ("C.UTF-8", "1")
    assert not [name for name in found if name.startswith(("WHIMBREL_", "AWS_"))]


def test_the_broker_has_every_reference_resolved(overlay: Machine) -> None:
    (broker,) = overlay.outcome.broker["brokers"]
    triggers = {each["name"]: each for each in overlay.outcome.broker["triggers"]}

    def address(name: str) -> str:
        return f"http://127.0.0.1:{overlay.ports[name]}"

    assert broker["delivery"]["deadLetterSink"] == {"uri": address("dead-letters")}
    assert triggers["objects"]["subscriber"] == {"uri": address("digits-transformer") + "/events"}
    assert triggers["predictions"]["subscriber"] == triggers["gone"]["subscriber"] == {"uri": address("results")}
    assert overlay.get(kinds.TRIGGER, "objects")["status"]["subscriberUri"].endswith("/events")


def test_the_hosts_are_knatives(overlay: Machine) -> None:
    hosts = {each.host: each.service for each in overlay.outcome.routes}

    assert hosts == {
        "digits.default.localhost": "digits-transformer",
        "digits-transformer.default.localhost": "digits-transformer",
        "latest-digits-transformer.default.localhost": "",
        "digits-predictor.default.localhost": "digits-predictor",
        "latest-digits-predictor.default.localhost": "",
        "results.default.localhost": "results",
        "dead-letters.default.localhost": "dead-letters",
    }


def test_a_source_starts_when_the_broker_knows_its_triggers(machine: Machine) -> None:
    apply(machine.storage, verdict, render(OVERLAY))
    machine.once()
    assert [kind for _, kind in machine.outcome.pods if kind == "ContainerSource"] == []

    machine.settle()

    source = machine.workload("objects")
    assert source.environment["K_SINK"] == f"http://127.0.0.1:{BROKER_PORT}/default/default"
    assert "K_CE_OVERRIDES" not in source.environment
    assert source.arguments == ("source", "sqs")


def test_the_overlay_is_settled_by_its_sinks_buckets(overlay: Machine) -> None:
    contents = embedded.store_contents(World(overlay.storage).of(kinds.CONFIG_MAP))
    environments = [overlay.workload(pod["metadata"]["name"]).environment for pod, _ in overlay.outcome.pods]

    assert settling(contents, environments) == Settling(
        (("photos", "photos"),), "results", "{bucket}", "dead-letters", ""
    )


def test_what_a_user_changed_survives_a_second_start_and_what_the_manifests_changed_comes(machine: Machine) -> None:
    machine.apply(service(minReplicas=1))
    machine.patch("one", canaryTrafficPercent=20)

    machine.apply(service(minReplicas=1))
    assert machine.get(kinds.INFERENCE_SERVICE, "one")["spec"]["predictor"]["canaryTrafficPercent"] == 20

    machine.apply(service(maxReplicas=3))
    spec = machine.get(kinds.INFERENCE_SERVICE, "one")["spec"]["predictor"]
    assert (spec["maxReplicas"], spec["canaryTrafficPercent"]) == (3, 20)
    assert "minReplicas" not in spec
