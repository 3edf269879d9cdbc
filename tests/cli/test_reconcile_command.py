"""`whimbrel reconcile` on a whole machine: a result that went missing is found, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from testbed.engine import OneMachine, pictures
from testbed.processes import environment, wait_for
from whimbrel.core.results import ResultObject, latest_key, result_key

PREFIX = "reconcile-command/"


def reconcile(machine: OneMachine, *arguments: str) -> tuple[int, list[Any], str]:
    """Exit status, the JSON lines and what was said besides."""
    command = [sys.executable, "-m", "whimbrel.cli", "reconcile", "photos", "--prefix", PREFIX, "-o", "json"]
    done = subprocess.run(
        [*command, "--state", str(machine.state), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_result_that_went_missing_is_found_and_comes_back(machine: OneMachine) -> None:
    machine.put(pictures(PREFIX, 3) | {f"{PREFIX}broken.png": b"no picture"})
    wait_for(lambda: len(machine.outcomes(prefix=PREFIX)) == 4, "four outcomes", 120)
    assert reconcile(machine)[0] == 0

    (result,) = machine.outcomes(prefix=PREFIX).results[f"{PREFIX}0001.png"]
    ref = result.object.ref
    for key in (result_key("photos", ref, result.model.digest), latest_key("photos", ref.key)):
        machine.s3().delete_object(Bucket="results", Key=key)
    status, lines, _ = reconcile(machine)
    assert (status, lines[:-1]) == (1, [{"key": f"{PREFIX}0001.png", "outcome": "missing"}])
    report = lines[-1]["report"]
    assert (report["objects"], report["results"], report["dead_letters"], report["missing"]) == (4, 2, 1, 1)

    status, lines, _ = reconcile(machine, "--emit", "--rate", "100")
    assert (status, lines[-1]["report"]["emitted"]) == (0, 1)
    (again,) = machine.outcomes(prefix=PREFIX).results[f"{PREFIX}0001.png"]
    assert again.object == ResultObject.of(ref)
    assert again.predictions == result.predictions


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (("--model-version", "3"), "expected models:/NAME/VERSION, models:/NAME@ALIAS or sha256:DIGEST"),
        (("--results-bucket", "nowhere"), "in bucket 'nowhere': the store answered NoSuchBucket"),
        (("--cursor", "/nowhere/cursor"), "expected the cursor of a comparison in /nowhere/cursor, or no file"),
    ],
)
def test_what_cannot_be_is_one_line(machine: OneMachine, arguments: tuple[str, ...], refusal: str) -> None:
    status, lines, said = reconcile(machine, *arguments)
    assert (status, lines) == (1, [])
    assert refusal in said and len(said.splitlines()) == 1
