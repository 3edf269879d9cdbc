"""What the pods of the stored objects are given: environments, sinks, runtimes, images; on a real storage."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.control import GATEWAY, MACHINE, Machine, containers, controlled, service
from whimbrel.core.errors import InputRefused
from whimbrel.local import images
from whimbrel.local.api import kinds
from whimbrel.local.control import names
from whimbrel.local.workload import Probe


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with controlled(tmp_path) as found:
        yield found


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


def test_a_container_of_a_source_has_the_name_that_knative_gives_it(machine: Machine) -> None:
    machine.apply(SOURCE.replace("- name: source\n          image", "- image"), SETTINGS, SECRET)
    machine.settle()

    ((pod, _),) = machine.outcome.pods
    assert [each["name"] for each in pod["spec"]["containers"]] == ["one-0"]


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
