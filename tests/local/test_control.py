"""What follows from the stored objects: revisions, traffic, pods, addresses, statuses; on a real storage."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import render
from whimbrel.local import embedded, images
from whimbrel.local.api import kinds
from whimbrel.local.api.kinds import Kind, by_kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.storage import Storage
from whimbrel.local.applying import apply
from whimbrel.local.control import names, pods, replica_sets, routing
from whimbrel.local.control.door import verdict
from whimbrel.local.control.outcome import Facts, Outcome, Tried
from whimbrel.local.control.passes import run
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.retries import Retries
from whimbrel.local.control.routing import RoutePlan
from whimbrel.local.control.world import World
from whimbrel.local.environment import machine_environment
from whimbrel.local.settling import Settling, settling
from whimbrel.local.workload import Probe, Workload

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"
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


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    storage = Storage(tmp_path / "objects.db")
    for found in embedded.settings_objects("default", 1, 2):
        kind = by_kind(found["apiVersion"], found["kind"])
        assert kind is not None
        storage.create(kind, found)
    yield Machine(storage)
    storage.close()


@pytest.fixture
def overlay(machine: Machine) -> Machine:
    apply(machine.storage, verdict, render(OVERLAY))
    machine.settle()
    return machine


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


# The project's own manifests


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


# Revisions and traffic


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


# References, environments, images


SOURCE = """
apiVersion: sources.knative.dev/v1
kind: ContainerSource
metadata: {name: one, namespace: other}
spec:
  sink: {uri: "http://somewhere/path"}
  ceOverrides: {extensions: {team: birds}}
  template:
    spec:
      containers:
        - name: source
          image: registry.example:5000/whimbrel/eventing@sha256:00
          args: [source, "$(WHIMBREL_KIND)"]
          envFrom: [{configMapRef: {name: settings}, prefix: A_}, {secretRef: {name: none, optional: true}}]
          env:
            - {name: PLAIN, value: "1"}
            - {name: FROM_SECRET, valueFrom: {secretKeyRef: {name: secret, key: word}}}
"""
SETTINGS = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: other}, data: {B: c}}"
SECRET = f"""
apiVersion: v1
kind: Secret
metadata: {{name: secret, namespace: other}}
data: {{word: {base64.b64encode(b"bird").decode()}}}
"""


def test_environments_come_from_config_maps_and_secrets(machine: Machine) -> None:
    machine.apply(SOURCE, SETTINGS, SECRET)
    machine.settle()

    source = machine.workload("one")

    assert source.name.endswith(".other")
    assert source.environment == MACHINE | {
        "A_B": "c",
        "PLAIN": "1",
        "FROM_SECRET": "bird",
        "K_SINK": "http://somewhere/path",
        "K_CE_OVERRIDES": '{"extensions": {"team": "birds"}}',
        "WHIMBREL_HTTP_HOST": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ((SOURCE, SECRET), "no ConfigMap 'settings' in namespace 'other'"),
        ((SOURCE, SETTINGS), "no Secret 'secret' in namespace 'other'"),
        ((SOURCE, SETTINGS, SECRET.replace("word", "wort")), "env FROM_SECRET: Secret 'secret' has no key 'word'"),
    ],
)
def test_a_pod_without_what_it_refers_to_waits_and_says_for_what(
    machine: Machine, documents: tuple[str, ...], said: str
) -> None:
    machine.apply(*documents)
    machine.settle()

    with pytest.raises(InputRefused) as error:
        machine.workload("one")

    assert said in str(error.value)


def test_a_secret_may_hold_any_bytes(machine: Machine) -> None:
    machine.apply(
        SOURCE, SETTINGS, SECRET.replace(base64.b64encode(b"bird").decode(), base64.b64encode(b"\xff").decode())
    )
    machine.settle()

    assert os.fsencode(machine.workload("one").environment["FROM_SECRET"]) == b"\xff"


def test_a_trigger_without_its_subscriber_says_so_and_loses_nothing(machine: Machine) -> None:
    machine.apply(
        "{apiVersion: eventing.knative.dev/v1, kind: Broker, metadata: {name: b}}",
        """
        apiVersion: eventing.knative.dev/v1
        kind: Trigger
        metadata: {name: t}
        spec: {broker: b, subscriber: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: absent}}}
        """,
    )
    machine.settle()

    assert machine.condition(kinds.TRIGGER, "t", "SubscriberResolved") == "False"
    assert machine.outcome.unready == ["Trigger t (no Service 'absent' in namespace 'default')"]
    (trigger,) = machine.outcome.broker["triggers"]
    assert trigger["subscriber"] == {"uri": f"http://127.0.0.1:{GATEWAY}/unresolved"}


@pytest.mark.parametrize(("api_version", "kind"), [("serving.knative.dev/v1", "Service"), ("apps/v1", "Deployment")])
def test_a_sink_binding_gives_its_subject_its_sink(machine: Machine, api_version: str, kind: str) -> None:
    template = {
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "whimbrel/eventing"}]},
    }
    selector = {"selector": {"matchLabels": {"app": "a"}}} if kind == "Deployment" else {}
    poster = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "poster"}}
    machine.apply(
        json.dumps(poster | {"spec": {"template": template, **selector}}),
        f"""
        apiVersion: sources.knative.dev/v1
        kind: SinkBinding
        metadata: {{name: binding}}
        spec:
          sink: {{uri: "http://sink"}}
          subject: {{apiVersion: {api_version}, kind: {kind}, name: poster}}
        """,
    )
    machine.settle()

    assert machine.workload("poster").environment["K_SINK"] == "http://sink"
    if kind == "Deployment":
        [(pod, _)] = machine.outcome.pods
        label = names.labels_of(pod)[names.TEMPLATE_HASH_LABEL]
        assert pod["metadata"]["name"].startswith(f"poster-{label}-")
    assert machine.condition(kinds.SINK_BINDING, "binding") == "True"


RUNTIME = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: ours}
spec:
  supportedModelFormats: [{name: whimbrel, version: "1", autoSelect: true}]
  containers:
    - name: kserve-container
      image: whimbrel/predictors
      args: ["--model-name={{.Name}}", "--model-uri=file:///mnt/models"]
      env: [{name: A, value: runtime}, {name: B, value: runtime}]
"""


@pytest.mark.parametrize("uri", ["s3://models/one", "file:///data/one", "models:/one@champion"])
def test_a_model_is_served_by_the_runtime_of_its_format(machine: Machine, uri: str) -> None:
    model = {"modelFormat": {"name": "whimbrel"}, "storageUri": uri, "env": [{"name": "A", "value": "own"}]}
    document = json.loads(service())
    document["spec"]["predictor"] = {"model": model}
    machine.apply(RUNTIME, json.dumps(document))
    machine.settle()

    found = machine.workload("one-predictor")

    assert found.arguments == ("--model-name=one", f"--model-uri={uri}")
    assert (found.environment["A"], found.environment["B"]) == ("own", "runtime")


def test_a_model_without_a_runtime_is_not_ready_and_says_why(machine: Machine) -> None:
    document = json.loads(service())
    document["spec"]["predictor"] = {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "s3://a/b"}}
    machine.apply(json.dumps(document))
    machine.settle()

    assert machine.condition(kinds.INFERENCE_SERVICE, "one", "PredictorReady") == "False"
    assert "no ServingRuntime with autoSelect supports 'onnx'" in machine.outcome.unready[0]

    machine.apply(RUNTIME.replace("name: whimbrel,", "name: onnx,"))
    machine.settle()
    assert machine.condition(kinds.INFERENCE_SERVICE, "one") == "True"


def test_any_other_image_runs_by_an_annotation_and_without_it_is_refused_with_that_hint(machine: Machine) -> None:
    with pytest.raises(InputRefused, match=r"say what to run in the annotation whimbrel\.dev/command"):
        machine.apply(service(image="other/server:1"))

    machine.apply(service(image="other/server:1", annotations={names.COMMAND: "python3 -m toy '$(PORT)'"}))
    machine.settle()

    found = machine.workload("one-predictor")
    assert found.command[0].endswith("/python3")
    assert found.command[1:] == ("-m", "toy", "$(PORT)")
    assert found.probe == Probe("", period_seconds=1)


def test_a_command_replaces_the_entry_point_of_this_projects_images(machine: Machine) -> None:
    found = containers("--name=$(NAME)")
    found[0] |= {"command": ["python", "-c", "print(1)"], "env": [{"name": "NAME", "value": "one"}]}
    machine.apply(service(containers=found))
    machine.settle()

    workload = machine.workload("one-predictor")
    assert workload.command == (sys.executable, "-c", "print(1)")
    assert workload.arguments == ("--name=$(NAME)",)

    found[0]["image"] = "other/server:1"
    with pytest.raises(InputRefused, match=r"say what to run in the annotation whimbrel\.dev/command"):
        machine.apply(service(containers=found))


@pytest.mark.parametrize("argument", ["--http-host=0.0.0.0", "--http_host=$(ADDRESS)"])
@pytest.mark.parametrize("part", ["args", "command"])
def test_an_argument_that_would_open_a_port_to_the_network_is_refused(
    machine: Machine, part: str, argument: str
) -> None:
    found = containers()
    found[0] |= {part: ["python", argument], "env": [{"name": "ADDRESS", "value": "192.168.0.1"}]}

    with pytest.raises(
        InputRefused, match=rf"spec.predictor.containers\[0\]: {part}\[1\]: expected a loopback address"
    ):
        machine.apply(service(containers=found))


@pytest.mark.parametrize(
    ("image", "module"),
    [
        ("whimbrel/predictors", "whimbrel.predictors"),
        ("whimbrel/eventing:1", "whimbrel.eventing"),
        ("host:5000/team/whimbrel/transformers:1@sha256:00", "whimbrel.transformers"),
    ],
)
def test_an_image_is_its_rooms_module(image: str, module: str) -> None:
    assert images.module(image) == module


@pytest.mark.parametrize("image", ["busybox", "whimbrel/local", "other/eventing", "whimbrel", "host:5000/eventing"])
def test_another_image_is_refused(image: str) -> None:
    with pytest.raises(InputRefused, match="known are whimbrel/predictors"):
        images.module(image)


# Applied twice


def test_what_a_user_changed_survives_a_second_start_and_what_the_manifests_changed_comes(machine: Machine) -> None:
    machine.apply(service(minReplicas=1))
    machine.patch("one", canaryTrafficPercent=20)

    machine.apply(service(minReplicas=1))
    assert machine.get(kinds.INFERENCE_SERVICE, "one")["spec"]["predictor"]["canaryTrafficPercent"] == 20

    machine.apply(service(maxReplicas=3))
    spec = machine.get(kinds.INFERENCE_SERVICE, "one")["spec"]["predictor"]
    assert (spec["maxReplicas"], spec["canaryTrafficPercent"]) == (3, 20)
    assert "minReplicas" not in spec
