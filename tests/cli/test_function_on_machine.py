"""A function file on a running engine: from `apply` to labels, a dead letter and `delete`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.engine import OneMachine, picture
from testbed.processes import wait_for
from whimbrel.cli.app import app
from whimbrel.core.errors import NotFound

FUNCTION = """\
schema: whimbrel.dev/function/v1
name: waders
input:
  bucket: waders-in
  prefix: beach/
  suffixes: [.png]
  source: {kind: sqs, queue: waders}
output: {bucket: waders-out, dead_letters: waders-lost}
model: null:10
scale: {min: 1}
transformer: {scale: {min: 1}}
labels: {season: autumn}
"""


def whimbrel(machine: OneMachine, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--state", str(machine.state)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_from_a_function_file_to_labels(machine: OneMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    file = tmp_path / "whimbrel.yaml"
    file.write_text(FUNCTION)
    try:
        whimbrel(machine, "apply", "-f", str(file), "--wait", "180")
        machine.put({"elsewhere/1.png": picture(1), "beach/notes.txt": b"terns"}, bucket="waders-in")
        machine.put({"beach/7.png": picture(7), "beach/torn.png": picture(3)[:30]}, bucket="waders-in")

        latest = "waders-in/beach/7.png.json"
        wait_for(lambda: latest in keys(machine, "waders-out"), "a result", 90)
        wait_for(lambda: keys(machine, "waders-lost"), "a dead letter", 90)
        result = machine.s3().get_object(Bucket="waders-out", Key=latest)["Body"].read()
        assert json.loads(result)["predictions"][0]["label"] == "class-7"
        assert not [key for key in keys(machine, "waders-out") if "elsewhere" in key or "notes" in key]
        listed = json.loads(whimbrel(machine, "ls", "-o", "json"))
        assert {each["ready"] for each in listed if each["name"].startswith("waders")} == {"True"}
        said = whimbrel(machine, "logs", "waders", "--component", "transformer")
        assert "s3://waders-in/beach/7.png" in said
        assert '"component": "source-sqs"' in whimbrel(machine, "logs", "containersource/waders-source")
        assert "waders-predictor-00001 100%" in whimbrel(machine, "describe", "waders")
    finally:
        whimbrel(machine, "delete", "-f", str(file), "--ignore-not-found", "--wait", "120")

    assert not [each for each in json.loads(whimbrel(machine, "ls", "-o", "json")) if each["name"].startswith("waders")]
    gone = CliRunner().invoke(app, ["describe", "waders", "--state", str(machine.state)])
    assert isinstance(gone.exception, NotFound)
    assert keys(machine, "waders-out"), "results stay"


def keys(machine: OneMachine, bucket: str) -> list[str]:
    return [each["Key"] for each in machine.s3().list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_the_doctor_finds_the_machine_whole(machine: OneMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)

    found = json.loads(whimbrel(machine, "doctor", "-o", "json"))

    assert {each["check"] for each in found} >= {"KServe", "store", "notifications", "registry", "readiness"}
    assert [each for each in found if each["state"] == "missing"] == []
    assert machine.status()["environment"]["AWS_SECRET_ACCESS_KEY"] not in str(found)
