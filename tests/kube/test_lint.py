"""Each rule finds its sample in tests/data/lint, and nothing else there; what a real cluster ran has no fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whimbrel.core.errors import SettingsError
from whimbrel.core.kustomize import Rendered, read_objects
from whimbrel.kube.lint import RULES, Finding, Severity, lint, schemas
from whimbrel.kube.lint.documents import read

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "lint"
CRDS = ROOT / "tests" / "data" / "crds"
SCHEMA = "schema"


def with_schemas(documents: list[Rendered]) -> list[Finding]:
    found = schemas.load([CRDS], frozenset(document.object["kind"] for document in documents))
    return lint(documents, rules=[*RULES, schemas.rule(found)])


def test_every_rule_has_a_sample_and_every_sample_a_rule() -> None:
    ids = [rule.id for rule in RULES]

    assert sorted({path.stem for path in SAMPLES.glob("*.yaml")}) == sorted([*ids, SCHEMA])
    assert len(set(ids)) == len(ids) > 40


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda sample: sample.stem)
def test_a_rule_finds_its_sample_and_no_other_rule_does(sample: Path) -> None:
    documents = read_objects(sample)
    found = with_schemas(documents) if sample.stem == SCHEMA else lint(documents)

    assert {finding.rule for finding in found} == {sample.stem}
    for finding in found:
        assert finding.file.endswith(f"tests/data/lint/{sample.name}")
        assert finding.path
        assert finding.seen
        assert finding.remedy


def first(name: str) -> Finding:
    return lint(read_objects(SAMPLES / f"{name}.yaml"))[0]


def test_a_finding_names_the_object_the_path_and_what_was_seen() -> None:
    finding = first("transformer-workers")

    assert (finding.kind, finding.name) == ("InferenceService", "digits")
    assert finding.path == "spec.transformer.containers[0].args"
    assert finding.seen == "no --workers, and a containerConcurrency of 16"
    assert finding.remedy == "add the argument --workers=1"
    assert finding.severity is Severity.ERROR


def test_a_feature_flag_of_the_cluster_allows_the_field() -> None:
    documents = read_objects(SAMPLES / "knative-pod-field.yaml")

    assert lint(documents, features=["kubernetes.podspec-nodeselector"]) == []
    assert len(lint(documents, features=["kubernetes.podspec-tolerations"])) == 1


BOUND = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: receiver}
spec: {template: {spec: {containers: [{name: c, env: [{name: WHIMBREL_SINK_TIMEOUT_SECONDS, value: "120"}]}]}}}
---
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata: {name: receiver}
spec:
  subject: {apiVersion: serving.knative.dev/v1, kind: Service, name: receiver}
  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default}}
---
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: default, annotations: {eventing.knative.dev/broker.class: MTChannelBasedBroker}}
spec: {delivery: {retry: 3, timeout: PT30S, deadLetterSink: {uri: "http://dead-letters"}}}
"""


@pytest.mark.parametrize(
    ("broker", "expected"), [("MTChannelBasedBroker", ["120 s, and deliveries of up to 240 s"]), ("Kafka", [])]
)
def test_a_bound_poster_waits_as_long_as_its_broker_takes(tmp_path: Path, broker: str, expected: list[str]) -> None:
    file = tmp_path / "bound.yaml"
    file.write_text(BOUND.replace("MTChannelBasedBroker", broker))

    assert [each.seen for each in lint(read_objects(file)) if each.rule == "source-patience"] == expected


def test_yaml_1_1_words_are_read_as_kubectl_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "object.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, annotations: {a: y, b: 'n', c: no}}\n")

    found = lint(read_objects(file))

    assert [(each.path, each.seen) for each in found] == [
        ("metadata.annotations[a]", "True, a bool"),
        ("metadata.annotations[c]", "False, a bool"),
    ]


def test_errors_come_before_warnings(tmp_path: Path) -> None:
    documents = read_objects(SAMPLES / "resources.yaml") + read_objects(SAMPLES / "model-name.yaml")

    assert [each.severity for each in lint(documents)] == [Severity.ERROR, Severity.WARNING]


@pytest.mark.parametrize("value", [None, 3, "text", [], {"a": None}, [None, 3]])
@pytest.mark.parametrize(
    "kind",
    [
        ("serving.kserve.io/v1beta1", "InferenceService"),
        ("serving.kserve.io/v1alpha1", "InferenceGraph"),
        ("serving.kserve.io/v1alpha1", "ServingRuntime"),
        ("eventing.knative.dev/v1", "Trigger"),
        ("eventing.knative.dev/v1", "Broker"),
        ("sources.knative.dev/v1", "ContainerSource"),
        ("policy/v1", "PodDisruptionBudget"),
    ],
)
def test_a_malformed_object_ends_no_rule(kind: tuple[str, str], value: object) -> None:
    """The shape is the schema's to judge; whatever it is, every rule goes on."""
    fields = ["predictor", "transformer", "canary", "nodes", "template", "containers", "subscriber", "filters"]
    fields += ["delivery", "selector", "sink", "storageUris", "volumes", "env", "args", "supportedModelFormats"]
    outer: dict[str, Any] = {"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "digits"}}
    shapes = [{**outer, "spec": value}, *({**outer, "spec": {field: value}} for field in fields)]
    shapes += [{**outer, "spec": {"predictor": {field: value}}} for field in fields]

    for shape in shapes:
        for finding in lint([Rendered(Path("shape.yaml"), shape)]):
            assert finding.name == "digits"


def test_what_kustomize_has_and_this_renderer_has_not_goes_to_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kustomization.yaml").write_text("resources: []\nreplicas: [{name: a, count: 1}]\n")

    with pytest.raises(SettingsError, match=r"field 'replicas' is not supported here.*install kubectl"):
        read([tmp_path])
