"""What the manifests become: commands, environments, addresses and the broker's configuration."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import render
from whimbrel.local import embedded, images
from whimbrel.local.environment import machine_environment
from whimbrel.local.objects import AppliedObjects, read
from whimbrel.local.plan import Plan, fronts, plan
from whimbrel.local.workload import Probe, Workload

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"
PORTS = {"broker": 1000, "digits-predictor": 1001, "digits-transformer": 1002, "results": 1003, "dead-letters": 1004}
MACHINE = {"PATH": "/bin"}


def applied(*documents: str) -> AppliedObjects:
    found = [read(document) for text in documents for document in yaml.safe_load_all(text)]
    return AppliedObjects(found)


@pytest.fixture(scope="module")
def objects() -> AppliedObjects:
    found = AppliedObjects([read(each) for each in render(OVERLAY)])
    return found.with_defaults([read(each) for each in embedded.settings_objects("default", 1, 2)])


@pytest.fixture(scope="module")
def planned(objects: AppliedObjects) -> Plan:
    return plan(objects, PORTS, MACHINE)


def workload(planned: Plan, name: str) -> Workload:
    return next(each for each in (*planned.workloads, *planned.sources) if each.name == name)


def test_what_calls_starts_after_what_it_calls(planned: Plan) -> None:
    called = [each.name for each in planned.workloads]

    assert called == ["digits-predictor", "digits-transformer", "results", "dead-letters"]
    assert [each.name for each in planned.sources] == ["objects"]


def test_a_transformer_is_given_what_kserve_gives(planned: Plan) -> None:
    transformer = workload(planned, "digits-transformer")

    assert transformer.module == "whimbrel.transformers"
    given = ("--model_name", "digits", "--predictor_host", "127.0.0.1:1001", "--http_port", "$(PORT)")
    assert transformer.arguments == (*given, "--workers=1")
    assert transformer.probe == Probe("/v2/health/ready", 1, 2, 30)
    assert transformer.timeout_seconds == 120


def test_a_process_has_its_declared_environment_and_the_machines_and_no_more(planned: Plan) -> None:
    predictor = workload(planned, "digits-predictor")

    expected = MACHINE | embedded.settings_environment(1, 2)
    assert predictor.environment == expected | {
        "WHIMBREL_MODEL_URI": "models:/digits@champion",
        "WHIMBREL_DRAIN_SECONDS": "0",
        "WHIMBREL_HTTP_HOST": "127.0.0.1",
    }
    assert predictor.grpc


def test_the_machines_environment_holds_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_S3_ENDPOINT", "http://elsewhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    found = machine_environment()

    assert (found["LC_ALL"], found["PYTHONSAFEPATH"]) == ("C.UTF-8", "1")
    assert not [name for name in found if name.startswith(("WHIMBREL_", "AWS_"))]


def test_a_source_is_given_its_sink(planned: Plan) -> None:
    source = workload(planned, "objects")

    assert source.environment["K_SINK"] == "http://127.0.0.1:1000/default/default"
    assert "K_CE_OVERRIDES" not in source.environment
    assert source.arguments == ("source", "sqs")


def test_the_broker_has_every_reference_resolved(planned: Plan) -> None:
    (broker,) = planned.broker["brokers"]
    triggers = {each["name"]: each for each in planned.broker["triggers"]}

    assert broker["delivery"]["deadLetterSink"] == {"uri": "http://127.0.0.1:1004"}
    assert broker["delivery"]["backoffDelay"] == "PT0.2S"
    assert triggers["objects"]["subscriber"] == {"uri": "http://127.0.0.1:1002/events"}
    assert triggers["predictions"]["subscriber"] == triggers["gone"]["subscriber"] == {"uri": "http://127.0.0.1:1003"}
    assert triggers["objects"]["filters"] == [{"prefix": {"type": "com.amazonaws.s3.ObjectCreated:"}}]


def test_an_inference_service_is_answered_by_its_transformer(objects: AppliedObjects) -> None:
    hosts = {host: front.workload for front in fronts(objects) for host in front.hosts}

    assert hosts == {
        "digits.default.localhost": "digits-transformer",
        "digits-transformer.default.localhost": "digits-transformer",
        "digits-predictor.default.localhost": "digits-predictor",
        "results.default.localhost": "results",
        "dead-letters.default.localhost": "dead-letters",
    }


def test_the_embedded_store_is_what_the_overlay_says(objects: AppliedObjects) -> None:
    contents = embedded.store_contents(objects)

    assert set(contents.buckets) == {"photos", "results", "dead-letters", "models"}
    assert contents.queues == ("photos",)
    (notification,) = contents.notifications
    assert notification.events == ("s3:ObjectCreated:*",)


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
        - image: registry.example:5000/whimbrel/eventing@sha256:00
          args: [source, "$(WHIMBREL_KIND)"]
          envFrom: [{configMapRef: {name: settings}, prefix: A_}, {secretRef: {name: none, optional: true}}]
          env:
            - {name: PLAIN, value: "1"}
            - {name: FROM_SECRET, valueFrom: {secretKeyRef: {name: secret, key: word}}}
"""
SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: other}
data: {B: c}
"""
SECRET = f"""
apiVersion: v1
kind: Secret
metadata: {{name: secret, namespace: other}}
data: {{word: {base64.b64encode(b"bird").decode()}}}
"""


def test_environments_come_from_config_maps_and_secrets() -> None:
    (source,) = plan(applied(SOURCE, SETTINGS, SECRET), {}, {}).sources

    assert source.name == "one.other"
    assert source.environment == {
        "A_B": "c",
        "PLAIN": "1",
        "FROM_SECRET": "bird",
        "K_SINK": "http://somewhere/path",
        "K_CE_OVERRIDES": '{"extensions": {"team": "birds"}}',
        "WHIMBREL_HTTP_HOST": "127.0.0.1",
    }


BROKER: dict[str, Any] = {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "metadata": {"name": "b"}}
TRIGGER: dict[str, Any] = {
    "apiVersion": "eventing.knative.dev/v1",
    "kind": "Trigger",
    "metadata": {"name": "t"},
    "spec": {"broker": "b", "subscriber": {"ref": {"apiVersion": "v1", "kind": "Service", "name": "absent"}}},
}


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ((SOURCE, SECRET), "ContainerSource 'one': no ConfigMap 'settings' in namespace 'other'"),
        ((SOURCE, SETTINGS), "ContainerSource 'one': no Secret 'secret' in namespace 'other'"),
        ((SOURCE, SETTINGS, SECRET.replace("word", "wort")), "env FROM_SECRET: 'secret' has no key 'word'"),
        ((yaml.safe_dump(TRIGGER),), "Trigger 't': spec.broker: no Broker 'b' here"),
        (
            (yaml.safe_dump(TRIGGER), yaml.safe_dump(BROKER)),
            "Trigger 't': spec.subscriber.ref: no Service 'absent' in namespace 'default'",
        ),
        ((SOURCE, SETTINGS, SECRET, SOURCE), "expected each process to have a name of its own, seen twice: one.other"),
    ],
)
def test_a_reference_to_nothing_is_refused(documents: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputRefused) as error:
        plan(applied(*documents), {"broker": 1}, {})

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("delivery", "said"),
    [
        ({"backoffDelay": "1s"}, "spec.delivery.backoffDelay: expected an ISO-8601 duration"),
        ({"retry": 101}, "spec.delivery.retry: Input should be less than or equal to 100"),
        ({"timeout": "PT20M"}, "spec.delivery.timeout: expected more than 0 and at most 600 s"),
        (
            {"deadLetterSink": {"ref": {"apiVersion": "v1", "kind": "Channel", "name": "c"}}},
            "spec.delivery.deadLetterSink.ref.kind: Input should be 'InferenceService', 'Service' or 'Broker'",
        ),
        ({"deadLetterSink": None}, "spec.delivery.deadLetterSink: Input should be a valid dictionary"),
    ],
)
@pytest.mark.parametrize("kind", ["Broker", "Trigger"])
def test_a_delivery_that_the_broker_would_not_take_is_refused(kind: str, delivery: dict[str, Any], said: str) -> None:
    given = {"delivery": delivery}
    broker = BROKER | {"spec": given if kind == "Broker" else {}}
    subscriber = {"broker": "b", "subscriber": {"uri": "http://127.0.0.1:1/"}}
    trigger = TRIGGER | {"spec": subscriber | (given if kind == "Trigger" else {})}

    with pytest.raises(InputRefused) as error:
        plan(applied(yaml.safe_dump(broker), yaml.safe_dump(trigger)), {"broker": 1}, {})

    assert str(error.value).startswith(f"{kind} {kind[0].lower()!r}: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    ['[source, "--http-host=0.0.0.0"]', "[source, --http_host, 192.168.0.1]", '[source, "--http-host=$(PLAIN)"]'],
)
def test_an_argument_that_would_open_a_port_to_the_network_is_refused(arguments: str) -> None:
    source = SOURCE.replace('[source, "$(WHIMBREL_KIND)"]', arguments)

    with pytest.raises(InputRefused) as error:
        plan(applied(source, SETTINGS, SECRET), {}, {})

    path = "ContainerSource 'one': spec.template.spec.containers[0].args[1]"
    assert str(error.value).startswith(f"{path}: expected a loopback address on one machine")


def test_a_host_in_other_letters_is_left_out_of_the_environment() -> None:
    (source,) = plan(applied(SOURCE.replace("PLAIN", "whimbrel_http_host"), SETTINGS, SECRET), {}, {}).sources

    assert [name for name in source.environment if name.upper() == "WHIMBREL_HTTP_HOST"] == ["WHIMBREL_HTTP_HOST"]


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
