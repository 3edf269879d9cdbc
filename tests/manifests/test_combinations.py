"""Nothing that is applied together breaks a rule of lint, and this renderer gives what kubectl gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.combinations import COMBINATIONS, EXAMPLES, MANIFESTS, SOURCES, Combination, rendered, write
from whimbrel.core.kustomize import read_objects, render
from whimbrel.kube.lint import lint
from whimbrel.transformers.contract import contract_of

# Said in the example itself: KServe 0.20 sends such a canary no traffic yet.
KNOWN = {"knative-cpu+storage-container+canary-standard": {"canary-not-split"}}


@pytest.mark.parametrize("combination", [*COMBINATIONS, *EXAMPLES], ids=str)
def test_lint_finds_nothing(combination: Combination) -> None:
    found = lint(rendered(combination), features=combination.features)

    known = KNOWN.get(str(combination), set())
    assert [each for each in found if each.rule not in known] == []
    assert {each.rule for each in found} == known


def test_a_flag_that_is_not_enabled_is_missed() -> None:
    (wanting,) = (each for each in COMBINATIONS if each.features)

    found = lint(rendered(wanting))

    assert {(each.rule, each.path) for each in found} == {
        ("knative-pod-field", "spec.predictor.tolerations"),
        ("knative-pod-field", "spec.predictor.nodeSelector"),
    }


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("combination", [each for each in COMBINATIONS if each.components], ids=str)
def test_equals_kubectl(combination: Combination, tmp_path: Path) -> None:
    folder = write(combination, tmp_path)
    output = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, check=True, timeout=60).stdout

    expected = list(yaml.safe_load_all(output))
    for found in expected:
        if found["kind"] == "ClusterStorageContainer":  # kubectl does not know that it has no namespace
            del found["metadata"]["namespace"]
    assert by_identity(render(folder)) == by_identity(expected)


def by_identity(objects: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    return {(o["apiVersion"], o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in objects}


def test_the_lists_hold_what_they_are_read_from() -> None:
    names = {str(each) for each in COMBINATIONS}

    assert {"local", "knative-cpu", "knative-gpu", "standard"} <= names
    assert "source-sqs" in SOURCES
    assert len(EXAMPLES) >= 8


def test_the_folder_of_examples_holds_them_all() -> None:
    """`kubectl apply -k manifests/examples -l whimbrel.dev/example=NAME` applies one."""
    objects = render(MANIFESTS / "examples")
    labels = {found["metadata"]["labels"]["whimbrel.dev/example"] for found in objects}

    assert labels == {Path(file).stem for each in EXAMPLES for file in each.files}
    assert len(by_identity(objects)) == len(objects)


@pytest.mark.parametrize("name", ["before-triton", "before-tf-serving"])
def test_the_transformer_takes_the_contract_of_an_example(name: str, tmp_path: Path) -> None:
    found = read_objects(MANIFESTS / "examples" / f"{name}.yaml")
    (data,) = (each.object["data"] for each in found if each.object["kind"] == "ConfigMap")
    for file, content in data.items():
        (tmp_path / file).write_text(content)

    contract = contract_of(str(tmp_path / "contract.yaml"))

    assert contract.labels == ("cat", "dog", "other")
    (service,) = (each.object["spec"] for each in found if each.object["kind"] == "InferenceService")
    assert service["predictor"]["model"]["protocolVersion"] == contract.protocol
    assert f"--predictor_protocol={contract.protocol}" in service["transformer"]["containers"][0]["args"]
