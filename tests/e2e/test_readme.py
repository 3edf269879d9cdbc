"""The README's commands and the notebooks do what they show: the demo, and what is done beside `make up`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.engine import OneMachine
from testbed.hey import needs_hey
from testbed.processes import Running, environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LOCAL_OVERLAY = ROOT / "manifests" / "overlays" / "local"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Shown:
    """A command as the README shows it, and the output beneath it, if any is shown."""

    command: str
    output: str


def shown_commands() -> list[Shown]:
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [Shown(command, output) for command, _, output in (part.partition("\n") for part in parts)]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which `make up` runs, as a user's checkout would be one."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(sys.prefix)
    command = [sys.executable, "-m", "whimbrel.cli", "up", "--manifests", str(LOCAL_OVERLAY)]
    process = Running(command, environment(), folder / "up.log", folder)
    try:
        OneMachine(folder / ".whimbrel", process).wait_ready(240)
        process.wait_until(lambda: "Ready." in process.output(), "the greeting")
        yield folder
    finally:
        process.stop(60)


def without_figures(text: str) -> str:
    """What stays the same from run to run."""
    lines = re.sub(r"\d+", "#", text).strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


@pytest.mark.torch
def test_the_walk_prints_what_is_shown(walk: Path) -> None:
    shown = shown_commands()
    assert len(shown) >= 10
    # One shell runs them all, as the user's does; a mark before each tells their output apart.
    printed = run_in_shell("\n".join(f"echo '<{number}>'; {each.command}" for number, each in enumerate(shown)), walk)
    for each, output in zip(shown, re.split(r"^<\d+>\n", printed, flags=re.MULTILINE)[1:], strict=True):
        if each.output:
            assert without_figures(output) == without_figures(each.output), each.command
    for said in (
        "seven.png  seven",
        "letter.png/",
        "champion",
        "digits-predictor",
        '{"predictions":[[{"label":"three"',
    ):
        assert said in printed


@pytest.mark.torch
@needs_hey
def test_every_cell_of_the_notebooks_does_as_it_says(walk: Path) -> None:
    """Beside the engine that the README's walk has left: a reader comes to them with a store that was used before."""
    done = subprocess.run(
        [sys.executable, "-m", "testbed.notebooks", "--folder", str(walk)],
        env=environment(PYTHONPATH=str(ROOT / "tests" / "support")),
        cwd=walk, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("every cell did as it says") == len(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_pictures_and_nothing_of_the_machine_that_made_them(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    told = re.findall(r"(?:/tmp|/home|/root|/Users|/work|/var|/opt)/\S*", json.dumps(outputs))
    assert told == []


@pytest.mark.torch
def test_the_demo_ends_well_and_prints_what_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whimbrel.cli", "demo", "--state", str(tmp_path / "demo")]
    done = subprocess.run(
        [*command, "--manifests", str(LOCAL_OVERLAY)],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    (table,) = re.findall(r"<!-- output: demo -->\n```\n(.*?)```", README, re.DOTALL)

    def first_column(text: str) -> list[str]:
        return [re.split(r"\s{2,}", line)[0] for line in text.strip().splitlines()]

    assert first_column(done.stdout) == first_column(table)


def test_the_make_targets_of_the_readme_run_these_commands() -> None:
    for target in ("demo", "up"):
        # These tests may be run by make themselves, which tells its children how.
        shell = {name: value for name, value in environment().items() if not name.startswith(("MAKE", "MFLAGS"))}
        planned = subprocess.run(
            ["make", "-n", target], cwd=ROOT, env=shell, capture_output=True, text=True, check=True, timeout=30
        ).stdout
        assert shlex.split(planned.splitlines()[-1]) == [".venv/bin/whimbrel", target]


def run_in_shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", script], env=environment(), cwd=folder, capture_output=True, text=True, timeout=700, check=False
    )
    return done.stdout
