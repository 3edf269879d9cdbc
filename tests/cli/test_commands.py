"""The commands against a running engine, each as a process of its own, as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.engine import OneMachine, picture
from testbed.processes import environment, wait_for


def whimbrel(*arguments: str, state: Path | None = None, status: int = 0) -> str:
    """Run a command; its output, or what it says on stderr where it is expected to fail."""
    done = subprocess.run(
        [sys.executable, "-m", "whimbrel.cli", *arguments, *(("--state", str(state)) if state else ())],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stderr if status else done.stdout


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    path = tmp_path / "seven.png"
    path.write_bytes(picture(7))
    return path


def test_a_picture_is_put_and_its_label_comes_back(machine: OneMachine, seven: Path) -> None:
    said = whimbrel("put", "photos", str(seven), "--prefix", "in/", "--wait", "30", state=machine.state)
    assert said.startswith("in/seven.png  label: class-7, score: 0.500  (model version null)  ")

    again = whimbrel("put", "photos", str(seven), "--prefix", "in/", "--wait", "30", state=machine.state)
    assert "label: class-7" in again, "the same bytes again have the same result"

    listed = json.loads(whimbrel("results", "ls", "-o", "json", state=machine.state))
    assert [each["predictions"][0]["label"] for each in listed if each["object"]["key"] == "in/seven.png"] == [
        "class-7"
    ]
    assert re.search(r"^in/seven.png +class-7 ", whimbrel("results", "ls", state=machine.state), re.MULTILINE)
    result = json.loads(whimbrel("results", "get", "in/seven.png", state=machine.state))
    assert result["schema"] == "whimbrel.dev/result/v1"
    versions = json.loads(whimbrel("results", "get", "in/seven.png", "--versions", state=machine.state))
    assert [each["object"] for each in versions] == [result["object"]], "two events of one version, one result"


def test_results_are_watched_as_they_come(machine: OneMachine, seven: Path) -> None:
    command = [sys.executable, "-m", "whimbrel.cli", "results", "watch", "--count", "1", "--state", str(machine.state)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as watching:
        numbers = iter(range(10_000))

        def seen() -> bool:
            # It watches from its start on, which cannot be seen from outside: go on until it has seen one.
            machine.put({f"watched/{next(numbers)}.png": picture(3)})
            return watching.poll() is not None

        try:
            wait_for(seen, "a line of `results watch`", 60)
        finally:
            watching.kill()
        assert watching.stdout is not None
        assert "label: class-3" in watching.stdout.read()
    assert watching.returncode == 0


def test_a_refused_file_is_listed_shown_and_replayed(machine: OneMachine, tmp_path: Path) -> None:
    letter = tmp_path / "letter.png"
    letter.write_text("Dear bucket")
    said = whimbrel_output_of_refusal(letter, machine)
    assert "letter.png  refused: expected an image as" in said

    listed = json.loads(whimbrel("dead-letters", "ls", "-o", "json", state=machine.state))
    (entry,) = [each for each in listed if each["event"].get("subject") == "letter.png"]
    assert (entry["error"]["code"], entry["attempts"], entry["replays"]) == (415, 1, 0)
    assert json.loads(whimbrel("dead-letters", "show", entry["key"], state=machine.state))["event"] == entry["event"]

    whimbrel("dead-letters", "replay", entry["key"], state=machine.state, status=1)
    again = json.loads(whimbrel("dead-letters", "show", entry["key"], state=machine.state))
    assert again["replays"] == 1


def whimbrel_output_of_refusal(letter: Path, machine: OneMachine) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "whimbrel.cli",
            "put",
            "photos",
            str(letter),
            "--wait",
            "30",
            "--state",
            str(machine.state),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stdout


def test_a_replay_that_is_delivered_deletes_the_dead_letter(machine: OneMachine) -> None:
    """An empty object is refused; once it is deleted, the replay settles it as gone and the dead letter goes."""
    machine.put({"mended.png": b""})
    wait_for(lambda: machine.outcomes(prefix="mended").letters, "the dead letter", 60)
    (entry,) = [
        each
        for each in json.loads(whimbrel("dead-letters", "ls", "-o", "json", state=machine.state))
        if each["event"].get("subject") == "mended.png"
    ]
    machine.s3().delete_object(Bucket="photos", Key="mended.png")

    said = whimbrel("dead-letters", "replay", entry["key"], state=machine.state)

    assert said.rstrip().endswith("delivered")
    outcomes = machine.outcomes(prefix="mended")
    assert not outcomes.letters and "mended.png" in outcomes.gone


def test_the_status_says_what_runs_and_hides_the_credentials(machine: OneMachine) -> None:
    status = json.loads(whimbrel("status", "-o", "json", state=machine.state))
    assert set(status["endpoints"]) == {"api", "s3", "mlflow", "gateway", "broker"}
    assert status["ready"] and all(each["ready"] for each in status["components"])
    assert "SECRET" not in json.dumps(status)
    assert "digits-predictor" in whimbrel("status", state=machine.state)


def test_a_second_up_on_the_same_state_is_refused_in_one_line(machine: OneMachine) -> None:
    said = whimbrel("up", state=machine.state, status=2)
    assert said.count("\n") == 1 and "is in use by process" in said


def test_models_are_listed_where_there_are_none(machine: OneMachine) -> None:
    assert json.loads(whimbrel("model", "ls", "-o", "json", state=machine.state)) == []
    assert "digits" in whimbrel("model", "show", "digits@champion", state=machine.state, status=1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("put", "photos", "/no/such/file.png"), "expected files, seen none at /no/such/file.png"),
        (("put", "no/bucket", __file__), "expected a bucket name, seen 'no/bucket'"),
        (("dead-letters", "replay"), "expected the keys of dead letters, --all or a selection"),
        (("dead-letters", "purge", "--reason", ""), "expected a reason with --reason, seen an empty one"),
        (("dead-letters", "show", "nothing.json"), "expected a dead letter at 'nothing.json'"),
        (("results", "get", "nothing.png"), "expected a result of s3://photos/nothing.png"),
        (("model", "show", "digits"), "expected NAME@ALIAS or NAME/VERSION, seen 'digits'"),
        (("model", "import", "model.pt2", "--name", "x"), "expected --labels and --size"),
    ],
)
def test_bad_input_is_one_line(machine: OneMachine, arguments: tuple[str, ...], line: str) -> None:
    said = whimbrel(*arguments, state=machine.state, status=1)
    assert line in said and said.count("\n") == 1


def test_without_an_engine_the_remedy_is_named(tmp_path: Path) -> None:
    assert "start it with 'whimbrel up'" in whimbrel("results", "ls", state=tmp_path, status=2)
    assert "start one with 'whimbrel up'" in whimbrel("status", state=tmp_path, status=1)
    said = whimbrel("up", "--manifests", str(tmp_path), state=tmp_path, status=2)
    assert f"expected a kustomization in {tmp_path}" in said


def test_help_and_version() -> None:
    text = whimbrel("--help")
    assert all(name in text for name in ("up", "demo", "put", "results", "dead-letters", "model", "loadtest"))
    assert whimbrel("--version").startswith("whimbrel ")


@pytest.mark.torch
def test_a_network_of_torchvision_becomes_a_registered_version(machine: OneMachine) -> None:
    arguments = ("model", "import", "torchvision:squeezenet1_0", "--weights", "none", "--name", "random")
    said = whimbrel(*arguments, "--alias", "champion", state=machine.state)
    assert said.startswith("random version 1  sha256:")
    assert whimbrel(*arguments, state=machine.state) == said, "the same package again is the version that it was"

    version = json.loads(whimbrel("model", "show", "random@champion", state=machine.state))
    assert (version["version"], version["architecture"]) == ("1", "torchvision:squeezenet1_0")
    assert version["uri"].startswith("s3://models/")
    (listed,) = json.loads(whimbrel("model", "ls", "random", "-o", "json", state=machine.state))
    assert listed["digest"] == version["digest"]


def test_the_demo_empties_no_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    said = whimbrel("demo", state=tmp_path, status=2)
    assert "seen other content" in said
    assert (tmp_path / "precious").read_text() == "mine"
