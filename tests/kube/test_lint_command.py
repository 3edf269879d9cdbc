"""`whimbrel lint` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whimbrel.cli.app import app
from whimbrel.core.errors import SettingsError
from whimbrel.kube.lint import RULES
from whimbrel.kube.lint.documents import read

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "lint"
OVERLAY = ROOT / "manifests" / "overlays" / "knative-cpu"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lint", *map(str, arguments)], env={"COLUMNS": "400"})
    if isinstance(result.exception, SettingsError):
        raise result.exception
    return result.exit_code, result.stdout


def test_an_overlay_is_without_fault() -> None:
    status, output = run("-k", OVERLAY, "--strict", "--crds", ROOT / "tests" / "data" / "crds")

    assert status == 0
    assert output.endswith(" objects: 0 errors, 0 warnings\n")


def test_a_fault_is_shown_with_file_path_rule_and_remedy() -> None:
    status, output = run("-f", SAMPLES / "knative-timeout.yaml")

    assert status == 1
    assert output.splitlines() == [
        "tests/data/lint/knative-timeout.yaml: InferenceService digits"
        if Path.cwd() == ROOT
        else f"{SAMPLES / 'knative-timeout.yaml'}: InferenceService digits",
        "  spec.predictor.timeout: 900",
        "    error knative-timeout: Knative refuses a timeout of more than 600 s",
        "    remedy: set at most 600, or raise max-revision-timeout-seconds in config-defaults",
        "1 objects: 1 errors, 0 warnings",
    ]


@pytest.mark.parametrize(("strict", "expected"), [((), 0), (("--strict",), 1)])
def test_a_warning_fails_only_when_it_is_asked_to(strict: tuple[str, ...], expected: int) -> None:
    status, output = run("-f", SAMPLES / "resources.yaml", "--json", *strict)

    assert status == expected
    (found,) = json.loads(output)
    assert (found["rule"], found["severity"], found["name"]) == ("resources", "warning", "digits")


def test_what_is_given_is_looked_at_together() -> None:
    """The namespace that enforces 'restricted' is in the overlay, the pod that it refuses in the file."""
    status, output = run("-k", OVERLAY, "-f", SAMPLES / "pod-security.yaml", "-o", "json")

    assert status == 1
    assert {found["rule"] for found in json.loads(output)} == {"pod-security"}


def test_an_unknown_field_is_found_with_the_crds_only() -> None:
    sample = SAMPLES / "schema.yaml"

    assert run("-f", sample)[0] == 0
    status, output = run("-f", sample, "--crds", ROOT / "tests" / "data" / "crds", "--json")
    assert status == 1
    assert "minReplica" in json.loads(output)[0]["seen"]


def test_a_function_file_is_looked_at_as_what_it_renders_to(tmp_path: Path) -> None:
    file = tmp_path / "whimbrel.yaml"
    assert CliRunner().invoke(app, ["init", "-f", str(file)]).exit_code == 0

    status, output = run("-f", file, "-f", ROOT / "manifests" / "base" / "addressable-resolver.yaml", "--strict")

    assert status == 0, output
    assert output.endswith(" objects: 0 errors, 0 warnings\n")


def test_a_folder_is_all_its_files() -> None:
    found = json.loads(run("-f", SAMPLES, "--json")[1])

    assert {"graph-root", "knative-timeout"} <= {each["rule"] for each in found}


def test_the_rules_are_listed() -> None:
    listed = json.loads(run("--rules", "--json")[1])

    assert [each["rule"] for each in listed] == [*(rule.id for rule in RULES), "schema"]
    assert "knative-timeout" in run("--rules")[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "expected -k FOLDER or -f FILE"),
        (("-k", "/nonexistent"), "expected /nonexistent/kustomization.yaml"),
        (("-f", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("-f", str(SAMPLES / "schema.yaml"), "--crds", "/nonexistent"), "expected CRDs at /nonexistent"),
    ],
)
def test_what_cannot_be_read_is_named(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        run(*arguments)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_renders_the_rest_and_the_file_is_known_still(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "canary-percent.yaml", tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [canary-percent.yaml]\nlabels: [{pairs: {a: b}}]\n")

    (document,) = read([tmp_path])

    assert document.file == tmp_path.resolve() / "canary-percent.yaml"
    assert document.object["metadata"] == {"name": "digits", "labels": {"a": "b"}}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_what_kubectl_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\nlabels: [{pairs: {a: b}}]\n")

    with pytest.raises(SettingsError, match=r"kubectl kustomize: .*absent\.yaml"):
        read([tmp_path])
