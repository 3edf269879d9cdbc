"""A function file: what it becomes, what is refused and where, and that its documentation is what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import Rendered
from whimbrel.core.kustomize import render as render_kustomization
from whimbrel.kube.function import (
    Function,
    FunctionRefused,
    embedded_store,
    is_embedded_store,
    is_function,
    read_function,
    reference,
    render,
)
from whimbrel.kube.function.conflicts import RESERVED
from whimbrel.kube.function.template import SCHEMA_FILE, json_schema, template
from whimbrel.kube.lint import RULES, lint, schemas
from whimbrel.kube.marked_yaml import documents
from whimbrel.local.embedded import store_contents

ROOT = Path(__file__).parents[2]
LEAST = """\
schema: whimbrel.dev/function/v1
name: birds
input:
  bucket: photos
  source: {kind: sqs, queue: birds}
model: models:/birds@champion
"""
FULL = """\
schema: whimbrel.dev/function/v1
name: birds
input:
  bucket: photos
  prefix: in/
  suffixes: [.png, .jpg]
  source: {kind: amqp, queue: birds, url: {secret: rabbitmq, key: url}}
output: {bucket: answers, prefix: "birds/{bucket}", dead_letters: lost}
model: {uri: s3://models/birds/v1, digest: "sha256:DIGEST"}
task: detection
resources: {cpu: 4, memory: 6Gi}
gpu: {count: 2, resource: amd.com/gpu}
scale: {min: 1, max: 3, concurrency: 32}
transformer:
  resources: {cpu: 500m}
  scale: {max: 2}
labels: {team: ornithology}
environment: {WHIMBREL_TOP_K: "3"}
secrets:
  MLFLOW_TRACKING_TOKEN: {secret: mlflow, key: token}
settings: our-settings
credentials: our-store
images: {registry: "registry.example.com:5000/team", tag: "9"}
""".replace("DIGEST", "0" * 64)


def function(text: str) -> Function:
    (document,) = documents(text, "f.yaml")
    return read_function(document)


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(FunctionRefused) as refused:
        function(text)
    return refused.value.faults


def by_name(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in objects}


def container(found: dict[str, Any]) -> dict[str, Any]:
    spec = found["spec"]["template"]["spec"] if "template" in found["spec"] else found["spec"]
    (only,) = spec["containers"]
    assert isinstance(only, dict)
    return only


def environment(found: dict[str, Any]) -> dict[str, Any]:
    entries = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in found["env"]}
    assert len(entries) == len(found["env"]), "a variable that is set twice"
    return entries


PUSHED = LEAST.replace("{kind: sqs, queue: birds}", "{kind: rgw-push}")


@pytest.mark.parametrize("text", [LEAST, FULL, template("birds"), PUSHED], ids=["least", "full", "init", "pushed"])
def test_what_it_becomes_passes_lint_and_the_crds(text: str) -> None:
    objects = render(function(text))
    kinds = frozenset(each["kind"] for each in objects)
    rules = [schemas.rule(schemas.load([ROOT / "tests" / "data" / "crds"], kinds)), *RULES]

    found = lint([Rendered(Path("f.yaml"), each) for each in objects], rules=rules)

    # What a cluster has once is not a function's to make.
    assert [(each.rule, each.seen) for each in found if each.rule != "addressable-role"] == []


def test_it_is_the_way_of_the_base(tmp_path: Path) -> None:
    """Probes, security, retries, references and scratch space have one meaning; only names and numbers differ."""
    base = by_name(render_kustomization(ROOT / "manifests" / "overlays" / "local"))
    made = by_name(render(function(LEAST)))
    pairs = {
        "Service/results": "Service/birds-results",
        "Service/dead-letters": "Service/birds-dead-letters",
        "ContainerSource/objects": "ContainerSource/birds-source",
    }
    compared = [(container(base[ours]), container(made[theirs])) for ours, theirs in pairs.items()]
    for component in ("predictor", "transformer"):
        ours = base["InferenceService/digits"]["spec"][component]
        theirs = made["InferenceService/birds"]["spec"][component]
        assert ours["timeout"] == theirs["timeout"]
        compared.append((ours["containers"][0], theirs["containers"][0]))

    for ours, theirs in compared:
        assert theirs["securityContext"] == ours["securityContext"]
        assert theirs["envFrom"] == ours["envFrom"]
        assert theirs["volumeMounts"] == ours["volumeMounts"]
        assert (
            theirs["readinessProbe"]["httpGet"]["path"].replace("birds", "digits")
            == (ours["readinessProbe"]["httpGet"]["path"])
        )
        assert theirs.get("livenessProbe") == ours.get("livenessProbe")
        assert environment(theirs).keys() - environment(ours).keys() <= {"WHIMBREL_RESULTS_PREFIX"}
    ours, theirs = (each["spec"]["delivery"] for each in (base["Broker/default"], made["Broker/birds"]))
    assert theirs["deadLetterSink"]["ref"]["name"] == "birds-dead-letters"
    for field in ("retry", "backoffPolicy", "timeout"):
        assert theirs[field] == ours[field]
    assert {key.rpartition("/")[0] for key in made} == {key.rpartition("/")[0] for key in base} & {
        *("InferenceService", "Broker", "Trigger", "ContainerSource", "Service")
    }


def test_every_field_reaches_its_object() -> None:
    made = by_name(render(function(FULL)))
    service = made["InferenceService/birds"]["spec"]
    predictor, transformer = service["predictor"], service["transformer"]
    variables = environment(predictor["containers"][0])

    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (1, 3, 32)
    assert (transformer["minReplicas"], transformer["maxReplicas"]) == (0, 2)
    assert predictor["containers"][0]["image"] == "registry.example.com:5000/team/whimbrel/predictors-cuda:9"
    assert predictor["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "6Gi", "amd.com/gpu": "2"}
    assert transformer["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1536Mi"}
    assert variables["WHIMBREL_MODEL_URI"] == "s3://models/birds/v1"
    assert variables["WHIMBREL_MODEL_DIGEST"] == "sha256:" + "0" * 64
    assert (variables["WHIMBREL_DEVICE"], variables["WHIMBREL_TOP_K"]) == ("cuda", "3")
    assert variables["MLFLOW_TRACKING_TOKEN"] == {"secretKeyRef": {"name": "mlflow", "key": "token"}}
    assert made["InferenceService/birds"]["metadata"]["labels"]["whimbrel.dev/task"] == "detection"
    source = container(made["ContainerSource/birds-source"])
    assert source["args"] == ["source", "amqp"]
    assert environment(source)["WHIMBREL_AMQP_URL"] == {"secretKeyRef": {"name": "rabbitmq", "key": "url"}}
    results = environment(container(made["Service/birds-results"]))
    assert (results["WHIMBREL_RESULTS_BUCKET"], results["WHIMBREL_RESULTS_PREFIX"]) == ("answers", "birds/{bucket}")
    dead_letters = container(made["Service/birds-dead-letters"])
    assert environment(dead_letters)["WHIMBREL_DEAD_LETTERS_BUCKET"] == "lost"
    assert dead_letters["envFrom"] == [
        {"configMapRef": {"name": "our-settings"}},
        {"secretRef": {"name": "our-store"}},
    ]
    assert made["Trigger/birds-objects"]["spec"]["filters"] == [
        {"prefix": {"type": "com.amazonaws.s3.ObjectCreated:"}},
        {"suffix": {"source": ".photos"}},
        {"prefix": {"subject": "in/"}},
        {"any": [{"suffix": {"subject": ".png"}}, {"suffix": {"subject": ".jpg"}}]},
    ]
    assert {each["metadata"]["labels"]["team"] for each in made.values()} == {"ornithology"}


@pytest.mark.parametrize(
    ("source", "arguments", "variables"),
    [
        ("{kind: sqs, queue: q, endpoint: 'http://h:1'}", "sqs", {"WHIMBREL_SQS_QUEUE", "WHIMBREL_SQS_ENDPOINT"}),
        (
            "{kind: rgw-pubsub, endpoint: 'http://h:1', subscription: s}",
            "rgw-pubsub",
            {"WHIMBREL_RGW_PUBSUB_ENDPOINT", "WHIMBREL_RGW_SUBSCRIPTION"},
        ),
        ("{kind: amqp, queue: q, url: {secret: s, key: k}}", "amqp", {"WHIMBREL_AMQP_QUEUE", "WHIMBREL_AMQP_URL"}),
        (
            "{kind: kafka, brokers: 'h:1', topic: t, security: sasl_ssl, username: {secret: s, key: u}, "
            "password: {secret: s, key: p}}",
            "kafka",
            {
                *("WHIMBREL_KAFKA_BROKERS", "WHIMBREL_KAFKA_TOPICS", "WHIMBREL_KAFKA_GROUP", "WHIMBREL_KAFKA_SECURITY"),
                *("WHIMBREL_KAFKA_SASL_MECHANISM", "WHIMBREL_KAFKA_USERNAME", "WHIMBREL_KAFKA_PASSWORD"),
            },
        ),
        ("{kind: s3-push, token: {secret: s, key: k}}", "s3-push", {"WHIMBREL_PUSH_TOKEN"}),
        (
            "{kind: rgw-push, user: u, password: {secret: s, key: k}}",
            *("rgw-push", {"WHIMBREL_PUSH_USER", "WHIMBREL_PUSH_PASSWORD"}),
        ),
    ],
)
def test_each_source_has_settings_that_its_process_knows(source: str, arguments: str, variables: set[str]) -> None:
    from importlib import import_module

    made = by_name(render(function(LEAST.replace("{kind: sqs, queue: birds}", source))))
    pushed = made.get("Service/birds-source")
    found = container(pushed or made["ContainerSource/birds-source"])
    settings = import_module(f"whimbrel.eventing.sources.{arguments.replace('-', '_')}").SETTINGS

    assert found["args"] == ["source", arguments]
    assert environment(found).keys() == variables | {"WHIMBREL_HTTP_HOST", "WHIMBREL_SINK_TIMEOUT_SECONDS"}
    known = {f"WHIMBREL_{name.upper()}" for name in settings.model_fields}
    assert environment(found).keys() <= known
    if pushed:
        binding = made["SinkBinding/birds-source"]["spec"]
        assert binding["subject"]["name"] == pushed["metadata"]["name"]
        assert binding["sink"]["ref"] == {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": "birds"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  bucket: photos",
            "  bukket: photos",
            [
                "f.yaml:3:1: input: field 'bucket' is missing",
                "f.yaml:4:3: input.bukket: unknown field; did you mean 'bucket'? "
                "(known: bucket, prefix, suffixes, source)",
            ],
        ),
        ("queue: birds", "queu: birds", ["f.yaml:5:3: input.source: field 'queue' is missing", "f.yaml:5:23: "]),
        (
            "kind: sqs",
            "kind: sns",
            [
                "f.yaml:5:12: input.source.kind: expected one of sqs, rgw-pubsub, amqp, kafka, "
                "rgw-push, s3-push, seen 'sns'"
            ],
        ),
        ("{kind: sqs, queue: birds}", "{queue: birds}", ["f.yaml:5:3: input.source.kind: expected one of sqs"]),
        (
            "{kind: sqs, queue: birds}",
            "{kind: kafka, brokers: b, topic: t, security: sasl_ssl, username: {secret: s, key: k}}",
            ["f.yaml:5:3: input.source: field 'password' is missing, as security is sasl_ssl"],
        ),
        (
            "{kind: sqs, queue: birds}",
            "{kind: kafka, brokers: b, topic: t, username: {secret: s, key: k}}",
            ["f.yaml:5:47: input.source.username: is for a sasl security, seen plaintext"],
        ),
        (
            "{kind: sqs, queue: birds}",
            "{kind: rgw-push, user: u}",
            ["f.yaml:5:3: input.source: expected user and password, seen one of the two"],
        ),
        ("name: birds", "name: Birds", ["f.yaml:2:1: name: expected to match pattern"]),
        ("name: birds", "name: 7", ["f.yaml:2:1: name: expected a valid string, seen 7; write it in quotes"]),
        ("schema: whimbrel.dev/function/v1", "schema: v2", ["f.yaml:1:1: schema: expected 'whimbrel.dev/function/v1'"]),
        ("models:/birds@champion", "birds", ["f.yaml:6:1: model: expected to match pattern"]),
        ("models:/birds@champion", "s3://models/birds", ["f.yaml:6:1: model: s3://models/birds does not load without"]),
        ("photos", "results", ["f.yaml:1:1: output.bucket: 'results' is the input's"]),
    ],
)
def test_faults_by_line_and_column(old: str, new: str, expected: list[str]) -> None:
    found = faults(LEAST.replace(old, new))

    assert len(found) == len(expected)
    assert [line for line, start in zip(found, expected, strict=True) if not line.startswith(start)] == []


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("scale: {min: 5, max: 4}", "f.yaml:7:9: scale.min: expected at most max (4), seen 5"),
        ("scale:\n  max: 0", "f.yaml:8:3: scale.max: expected greater than or equal to 1, seen 0"),
        ("transformer: {scale: {min: 9}}", "f.yaml:7:23: transformer.scale.min: expected at most max (8), seen 9"),
        ("gpu: true", "f.yaml:7:1: gpu: expected fields below it, seen True"),
        ("gpu: 17", "f.yaml:7:1: gpu: expected less than or equal to 16, seen 17"),
        ("resources: {cpu: lots}", "f.yaml:7:13: resources.cpu: expected to match pattern"),
        (
            "resources: {memory: 3}",
            "f.yaml:7:13: resources.memory: expected a valid string, seen 3; write it in quotes",
        ),
        ("labels: {serving.knative.dev/x: a}", "f.yaml:7:10: labels.serving.knative.dev/x: labels of this group steer"),
        (
            "environment: {WHIMBREL_TOP_K: 3}",
            "f.yaml:7:15: environment.WHIMBREL_TOP_K: expected a valid string, seen 3",
        ),
        ("environment: {DB_PASSWORD: x}", "f.yaml:7:15: environment.DB_PASSWORD: looks like a secret"),
        ("environment: {WHIMBREL_MODEL_URI: x}", "f.yaml:7:15: environment.WHIMBREL_MODEL_URI: set by other fields"),
        (
            "environment: {A: x}\nsecrets: {A: {secret: s, key: k}}",
            "f.yaml:8:11: secrets.A: stands under 'environment'",
        ),
        ("secrets: {PORT: {secret: s, key: k}}", "f.yaml:7:11: secrets.PORT: set by other fields"),
        ("output: {bucket: dead-letters}", "f.yaml:7:1: output.dead_letters: 'dead-letters' is that of the results"),
        (
            "images: {tag: latest, registery: x}",
            "f.yaml:7:23: images.registery: unknown field; did you mean 'registry'?",
        ),
        (
            "secrets: {source: {secret: s, kez: k, key: k}}",
            "f.yaml:7:31: secrets.source.kez: unknown field; did you mean",
        ),
        ("transformer: {scale: {maks: 2}}", "f.yaml:7:23: transformer.scale.maks: unknown field (known: min, max"),
        (
            "task: segmentation",
            "f.yaml:7:1: task: expected 'classification', 'detection' or 'pose', seen 'segmentation'",
        ),
    ],
)
def test_one_fault_of_an_added_field(added: str, expected: str) -> None:
    found = faults(LEAST + added + "\n")

    assert len(found) == 1, found
    assert found[0].startswith(expected), found[0]


def test_all_faults_are_told_in_the_order_of_the_file() -> None:
    found = faults(LEAST + "gpu: true\nscale: {min: -1, max: x}\nfoo: 1\n")

    assert [line.split(": ")[1] for line in found] == ["gpu", "scale.min", "scale.max", "foo"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b\n", "f.yaml:2:1: 'name' occurs twice, first in line 1"),
        ("a: &x 1\nb: *x\n", "f.yaml:2:4: expected no YAML aliases, seen *x"),
        ("a: [1, 2\n", "f.yaml:2:1: expected YAML, seen "),
        ("a: !!python/object:os.system x\n", "f.yaml:1:4: expected a plain value"),
        ("? [a]\n: 1\n", "f.yaml:1:3: expected a text as key, seen a mapping or a list"),
        ("labels: {on: a}\n", "f.yaml:1:10: expected a text as key, seen 'on'; write it in quotes"),
        ("a: 2026-02-30\n", "f.yaml:1:4: expected a plain value"),
        ("a: " + "[" * 2000 + "]" * 2000, "f.yaml:1:67: expected at most 64 levels"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: expected YAML, seen "),
    ],
)
def test_yaml_that_hides_something(text: str, expected: str) -> None:
    with pytest.raises(InputRefused) as refused:
        documents(text, "f.yaml")

    assert str(refused.value).startswith(expected)


def test_which_documents_are_functions() -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    found = documents(f"---\n{manifest}---\n{LEAST}---\n# nothing\n", "f.yaml")

    assert [is_function(each) for each in found] == [False, True]
    with pytest.raises(FunctionRefused, match="expected a function file, which begins with"):
        read_function(documents("[a]", "f.yaml")[0])


def test_the_engine_makes_what_a_store_has_elsewhere() -> None:
    sqs, amqp = embedded_store(function(LEAST)), embedded_store(function(FULL))

    contents = store_contents([sqs])
    assert contents.buckets == ("photos", "results", "dead-letters")
    assert contents.queues == ("birds",)
    assert [(each.bucket, each.queue) for each in contents.notifications] == [("photos", "birds")]
    assert store_contents([amqp]).queues == ()
    assert is_embedded_store(sqs)
    assert not is_embedded_store({"metadata": {"labels": {"whimbrel.dev/embedded-store": "true"}}}), "a user's own"


def test_what_init_writes_is_read_and_names_every_section() -> None:
    text = template("birds")

    found = function(text)

    assert (found.name, found.input.bucket, found.model.uri) == ("birds", "photos", "models:/birds@champion")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert {name for name in Function.model_fields if name != "format" and f"{name}:" not in text} == set()
    uncommented = "\n".join(line.replace("# ", "", 1) if line.startswith("# ") else line for line in text.splitlines())
    whole = (
        uncommented[uncommented.index("schema: whimbrel") :]
        .replace("The registry's", "# The")
        .replace("model: {uri", "# model: {uri")
    )
    assert function(whole).gpu is not None, "what is commented out is right too"
    with pytest.raises(InputRefused, match="expected a name of at most 40 lower-case letters"):
        template("Birds")


def test_the_schema_is_committed_and_agrees_with_the_reader() -> None:
    committed = (ROOT / "docs" / "function.schema.json").read_text()
    assert committed == json_schema(), "write it anew with 'python -m whimbrel.kube.function schema'"
    schema = json.loads(committed)
    validator = jsonschema.Draft202012Validator(schema)

    for good in (LEAST, FULL, template("birds"), LEAST + "gpu: 1\n"):
        assert list(validator.iter_errors(yaml.safe_load(good))) == []
    for bad in (LEAST + "gpu: true\n", LEAST + "foo: 1\n", LEAST.replace("sqs", "sns"), LEAST + "gpu: 17\n"):
        assert list(validator.iter_errors(yaml.safe_load(bad)))


def test_the_reference_names_every_field() -> None:
    page = (ROOT / "docs" / "function-file.md").read_text()
    _, _, rest = page.partition("<!-- reference -->\n")
    written, _, _ = rest.partition("<!-- /reference -->")

    assert written == reference.table(), "write it anew with 'python -m whimbrel.kube.function reference'"
    assert all(each.description for each in reference.fields())


def test_reserved_names_are_those_that_render_sets() -> None:
    service = by_name(render(function(FULL)))["InferenceService/birds"]["spec"]
    own = {"WHIMBREL_TOP_K", "MLFLOW_TRACKING_TOKEN"}

    for component in ("predictor", "transformer"):
        assert environment(service[component]["containers"][0]).keys() - own <= RESERVED
