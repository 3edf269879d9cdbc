"""An environment that holds only what one image's lock names, and the start of that image's program in it.

`python -m testbed.lock_environments ROOM...` is the full form: a fresh virtual environment, installed from the lock by
its hashes and from the wheel in dist/, its program started, its size said. The tests make the same of links to what is
installed here already, in the versions that are installed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from packaging.requirements import Requirement

from testbed.processes import Running, environment
from whimbrel.local.state import free_port

ROOT = Path(__file__).parents[3]
LOCKS = {
    "transformers": "transformers/requirements.lock",
    "eventing": "eventing/requirements.lock",
    "predictors": "predictors/requirements.cuda.lock",
    "mlflow": "mlflow/requirements.cuda.lock",
}


@dataclass(frozen=True, slots=True)
class Start:
    """A room's program by its arguments, and what it answers: `status` at `path`; without a path it ends with 0."""

    room: str
    arguments: tuple[str, ...]
    path: str = ""
    status: int = 200


# A store that does not answer: the program is up, and says that it is not ready.
_STORE = ("--s3-endpoint", "http://127.0.0.1:9")
STARTS = (
    Start("transformers", ("--model-name", "digits", "--predictor-host", "127.0.0.1:9"), "/v2/health/ready"),
    Start("eventing", ("sink", "results", "--results-bucket", "results", *_STORE), "/healthz", 503),
    Start(
        "eventing",
        (
            "source",
            "sqs",
            "--sqs-queue",
            "photos",
            "--sqs-endpoint",
            "http://127.0.0.1:9",
            "--sink",
            "http://127.0.0.1:9",
        ),
        "/healthz",
        503,
    ),
    Start("predictors", ("--model-name", "digits", "--model-uri", "null:10"), "/v2/models/digits/ready"),
    Start("mlflow", ("rollouts", "--help")),
)


def requirements(lock: Path) -> list[Requirement]:
    """Every pin of a lock, its marker with it."""
    return [Requirement(line.rstrip(" \\")) for line in lock.read_text().splitlines() if line[:1].isalnum()]


def linked(room: str, folder: Path) -> list[str]:
    """The import path of an environment with links to the lock's distributions only, and this checkout's packages."""
    todo = [pin for pin in requirements(ROOT / LOCKS[room]) if pin.marker is None or pin.marker.evaluate()]
    seen = set()
    while todo:
        pin = todo.pop()
        if pin.name in seen or (found := _installed(pin.name)) is None:
            continue
        seen.add(pin.name)
        _link(found, folder)
        if not pin.specifier or not pin.specifier.contains(found.version, prereleases=True):
            # Another version than the lock's may need what that one did not.
            needed = [Requirement(text) for text in found.requires or ()]
            todo += [
                Requirement(each.name) for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    standard = [path for path in sys.path if path and "site-packages" not in path and str(ROOT) not in path]
    return [str(folder), *(str(ROOT / part) for part in _rooms()), *standard]


def _rooms() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("*/whimbrel"))


def _installed(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _link(distribution: metadata.Distribution, folder: Path) -> None:
    base = Path(str(distribution.locate_file("")))
    for top in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (folder / top).exists() and (base / top).exists():
            (folder / top).symlink_to(base / top)


def check(start: Start, command: list[str], log: Path, **variables: str) -> None:
    """Starts the program and stops it. Raises AssertionError with its output."""
    module = [*command, f"whimbrel.{start.room}", *start.arguments]
    bare = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    bare |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "WHIMBREL_DRAIN_SECONDS": "0", **variables}
    if not start.path:
        done = subprocess.run(module, env=bare, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return
    port = free_port()
    program = Running([*module, "--http-port", str(port)], bare, log)
    try:
        program.wait_until(lambda: _status(f"http://127.0.0.1:{port}{start.path}") == start.status, "an answer", 120)
    finally:
        ended = program.stop()
    assert ended == 0, program.output()


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=2.0).status_code
    except httpx.HTTPError:
        return None


@contextmanager
def installed(room: str) -> Iterator[Path]:
    """A virtual environment as the image has it."""
    with TemporaryDirectory(prefix=f"whimbrel-{room}-") as made:
        folder = Path(made)
        venv.create(folder, with_pip=True)
        (wheel,) = (ROOT / "dist").glob("whimbrel-*.whl")
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*install, "--only-binary", ":all:", "--require-hashes", "-r", str(ROOT / LOCKS[room])], check=True
        )
        subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
        yield folder


def size(folder: Path) -> int:
    """Bytes of the files below it, each once."""
    found = {(entry.st_dev, entry.st_ino): entry.st_size for entry in _entries(folder)}
    return sum(found.values())


def _entries(folder: Path) -> Iterator[os.stat_result]:
    for path, _, files in os.walk(folder):
        yield from ((Path(path) / file).lstat() for file in files)


def main(rooms: list[str]) -> None:
    for room in rooms or list(LOCKS):
        with installed(room) as folder:
            packages = next(folder.glob("lib/python*/site-packages"))
            for pip in packages.glob("pip*"):  # the image has none
                subprocess.run(["rm", "-r", str(pip)], check=True)
            for start in STARTS:
                if start.room == room:
                    check(start, [str(folder / "bin" / "python"), "-m"], folder / "log")
                    sys.stdout.write(f"{room}: {' '.join(start.arguments[:2])} starts\n")
            sys.stdout.write(f"{room}: site-packages {size(packages) / 1e6:.0f} MB\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
