"""`whimbrel rollout` and the aliases and pointers around it, against a real registry, store and API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from testbed.kubernetes_api import KubernetesApi, kubernetes_api
from testbed.stores import Store
from whimbrel.cli.app import app
from whimbrel.cli.samples import QUICK_POLICY
from whimbrel.core.errors import WhimbrelError
from whimbrel.core.model_pointer import PointerStore
from whimbrel.core.package import WEIGHTS, write_manifest
from whimbrel.core.references import ObjectRef
from whimbrel.mlflow.register import register
from whimbrel.mlflow.rollout.known_objects import parse_known_objects
from whimbrel.mlflow.rollout.policy import parse_policy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL, BUCKET = "birds", "rollout-commands"
Whimbrel = Callable[..., Result]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    with kubernetes_api(tmp_path_factory.mktemp("rollout-api")) as running:
        yield running


@pytest.fixture(scope="module")
def whimbrel(api: KubernetesApi, store: Store, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Whimbrel:
    """The command line, with two versions of a model in its registry; version 1 is champion."""
    folder, s3 = tmp_path_factory.mktemp("rollout-commands"), store.s3()
    for number, alias in ((1, "champion"), (2, None)):
        package = folder / str(number)
        package.mkdir()
        (package / WEIGHTS).write_bytes(b"weights %d" % number)
        fields = {
            "task": "classification",
            "architecture": "torchvision:resnet18",
            "preset": {"height": 8, "width": 8},
            "labels": ["gull", "tern"],
            "torch_version": "2.15.0",
        }
        register(write_manifest(package, fields, [WEIGHTS]), MODEL, tracking_uri, s3, alias=alias)
    s3.create_bucket(Bucket=BUCKET)
    settings = {
        **store.settings_environment,
        "WHIMBREL_MLFLOW_TRACKING_URI": tracking_uri,
        "KUBECONFIG": str(api.kubeconfig),
    }
    return lambda *arguments: CliRunner(env=settings).invoke(app, arguments)


def told(result: Result) -> str:
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def refused(result: Result) -> str:
    assert isinstance(result.exception, WhimbrelError), result.output
    return str(result.exception)


def start(whimbrel: Whimbrel, name: str, *more: str, model: str = MODEL) -> Result:
    places = ("--pointer", f"s3://{BUCKET}/pointer.json", "--evidence", f"s3://{BUCKET}/evidence", "--name", name)
    return whimbrel("rollout", "start", model, *places, *more)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("known") / "known.jsonl"
    path.write_text('{"uri": "s3://photos/1.png", "label": "gull"}\n{"uri": "s3://photos/2.png", "label": "tern"}\n')
    return str(path)


def test_a_challenger_is_pointed_at_started_held_and_taken_back(
    whimbrel: Whimbrel, api: KubernetesApi, s3: S3Client, known: str
) -> None:
    assert "seen 'challenger'" in refused(start(whimbrel, "early", "--known", known))
    assert told(whimbrel("model", "alias", f"{MODEL}/2", "challenger")) == f"{MODEL}@challenger  version 2\n"
    assert "digest" in told(whimbrel("model", "diff", f"{MODEL}@champion", f"{MODEL}@challenger"))
    assert told(start(whimbrel, "birds-2", "--known", known)) == "rollout birds-2: version 2 against 1\n"
    (found,) = json.loads(told(whimbrel("rollout", "status", "-o", "json")))
    spec = found["spec"]
    assert (spec["champion"]["version"], spec["candidate"]["version"], spec["inferenceService"]) == ("1", "2", MODEL)
    kept = ObjectRef.from_uri(spec["knownObjects"])
    content = s3.get_object(Bucket=kept.bucket, Key=kept.key)["Body"].read()
    assert parse_known_objects(content, "kept") == parse_known_objects(Path(known).read_bytes(), "given")
    told(whimbrel("rollout", "pause", "birds-2"))
    assert rollout(api, "birds-2")["spec"]["paused"] is True
    told(whimbrel("rollout", "resume", "birds-2"))
    assert rollout(api, "birds-2")["spec"]["paused"] is False
    told(whimbrel("rollout", "abort", "birds-2"))
    assert rollout(api, "birds-2")["spec"]["decision"] == "Abort"
    assert "birds-2" in told(whimbrel("rollout", "status"))
    assert "TIME (UTC)" in told(whimbrel("rollout", "history", "birds-2"))
    assert "birds-2" in refused(start(whimbrel, "birds-2", "--known", known))


def test_by_revision_there_is_no_pointer(whimbrel: Whimbrel, api: KubernetesApi, known: str) -> None:
    options = ("--evidence", f"s3://{BUCKET}/evidence", "--name", "revisions", "--known", known, "--by-revision")
    told(whimbrel("rollout", "start", f"{MODEL}/2", *options))
    spec = rollout(api, "revisions")["spec"]
    assert (spec["policy"]["movement"], "pointer" in spec) == ("ByRevision", False)
    both = whimbrel("rollout", "start", f"{MODEL}/2", *options, "--pointer", f"s3://{BUCKET}/pointer.json")
    assert "pointer: expected with movement InPlace and no other, seen ByRevision" in refused(both)


def rollout(api: KubernetesApi, name: str) -> dict[str, Any]:
    with api.client() as client:
        answer = client.get(f"/apis/rollout.whimbrel.dev/v1/namespaces/default/modelrollouts/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def test_the_first_pointer_is_written_once(whimbrel: Whimbrel, s3: S3Client) -> None:
    place = ObjectRef(BUCKET, "pointer.json")
    assert told(whimbrel("model", "point", f"{MODEL}@champion", "--pointer", place.uri)) == f"{place.uri}  version 1\n"
    read = PointerStore(s3, place).read()
    assert read is not None
    assert (read.pointer.current.version, read.pointer.candidate) == ("1", None)
    assert "seen another" in refused(whimbrel("model", "point", f"{MODEL}/2", "--pointer", place.uri))


def test_what_is_wrong_is_one_line(whimbrel: Whimbrel, known: str, tmp_path: Path) -> None:
    policy, unlabelled = tmp_path / "policy.yaml", tmp_path / "unlabelled.jsonl"
    unlabelled.write_text('{"uri": "s3://photos/1.png"}\n')
    policy.write_text("steps: [{percent: 120}]\n")
    model = f"{MODEL}/2"
    wrong = start(whimbrel, "x", "--known", known, "--policy", str(policy), model=model)
    assert "policy.yaml: steps.0.percent: Input should be less than 100" in refused(wrong)
    policy.write_text("gates: {accuracy: {allowed: 0.01, tolerance: 0.05}}\n")
    blind = start(whimbrel, "x", "--known", str(unlabelled), "--policy", str(policy), model=model)
    assert "expected no gate on accuracy where no known object has a label" in refused(blind)
    assert "expected known objects in nowhere.jsonl" in refused(
        start(whimbrel, "x", "--known", "nowhere.jsonl", model=model)
    )
    assert "expected another version than the champion" in refused(
        start(whimbrel, "x", "--known", known, model=f"{MODEL}/1")
    )
    assert "line 1: uri" in refused(start(whimbrel, "x", "--known", str(policy_as_known(tmp_path)), model=model))
    assert "nobody" in refused(whimbrel("rollout", "status", "nobody"))


def policy_as_known(folder: Path) -> Path:
    path = folder / "broken.jsonl"
    path.write_text('{"label": "gull"}\n')
    return path


def test_a_list_beside_the_model_is_what_they_are_compared_by(
    whimbrel: Whimbrel, api: KubernetesApi, s3: S3Client, known: str
) -> None:
    beside = ObjectRef("models", f"{MODEL}/known.jsonl")
    s3.create_bucket(Bucket=beside.bucket)
    s3.put_object(Bucket=beside.bucket, Key=beside.key, Body=Path(known).read_bytes())
    told(start(whimbrel, "beside", model=f"{MODEL}/2"))
    s3.delete_object(Bucket=beside.bucket, Key=beside.key)
    assert rollout(api, "beside")["spec"]["knownObjects"] == beside.uri
    assert rollout(api, "beside")["spec"]["policy"]["gates"].keys() == {"accuracy", "errors", "latency"}
    assert "results" in refused(start(whimbrel, "without", model=f"{MODEL}/2"))


def test_the_sample_policy_is_one() -> None:
    policy = parse_policy(yaml.safe_load(QUICK_POLICY), "sample")
    assert [step.percent for step in policy.steps] == [20, 50]


def test_without_labels_the_gates_are_on_agreement(whimbrel: Whimbrel, api: KubernetesApi, tmp_path: Path) -> None:
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text('{"uri": "s3://photos/1.png"}\n')
    told(start(whimbrel, "agreeing", "--known", str(unlabelled), model=f"{MODEL}/2"))
    policy = rollout(api, "agreeing")["spec"]["policy"]
    assert policy["gates"].keys() == {"agreement", "errors", "latency"}
    assert policy["backtest"]["gates"].keys() == {"agreement", "errors"}
