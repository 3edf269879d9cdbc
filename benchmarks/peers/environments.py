"""A virtual environment for each peer, all of them over the one torch that runs the benchmark.

An environment holds what its peer needs beside torch; torch, torchvision and what they require are seen through links,
for six copies would be 30 GB. They stay in `.whimbrel/peers`, so that only the first run installs anything.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CACHE = Path(__file__).parents[2] / ".whimbrel" / "peers"
INSTALL_SECONDS = 900
SHARED = ("torch", "torchvision")
_SHARED_PTH = "shared_torch.pth"


class NotInstalled(Exception):
    """One line: why a peer has no environment."""


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The interpreter of the peer's environment, made where it is not there yet. Raises NotInstalled."""
    folder = CACHE / name
    python, record = folder / "bin" / "python", folder / "installed.json"
    wanted = json.dumps({"requirements": requirements, "shared": _versions(), "python": sys.version})
    if record.is_file() and record.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    made(folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{package}=={version}\n" for package, version in _versions().items()))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-warn-script-location"]
    print(f"installing {' '.join(requirements)} into {folder}", flush=True)
    _check_called([*pip, "--constraint", str(constraints), *requirements])
    record.write_text(wanted)
    return python


def made(folder: Path) -> Path:
    """The interpreter of a new environment that has torch, and nothing to install more with."""
    _check_called([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _site_packages(folder).joinpath(_SHARED_PTH).write_text(f"{_shared_folder()}\n")
    return folder / "bin" / "python"


def version_in(python: Path, package: str) -> str:
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in SHARED}


def _site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python3*/site-packages"))


def _shared_folder() -> Path:
    """Links to all that torch and torchvision are made of, and to nothing else that is installed here."""
    folder = CACHE / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for distribution in _required(SHARED):
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link, place = folder / name, Path(str(distribution.locate_file(name)))
            if not link.exists():  # several of NVIDIA's are one folder
                link.symlink_to(place)
    return folder


def _required(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    """The distributions of these names and of all that they require here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        distribution = importlib.metadata.distribution(wanted.name)
        for extra in {"", *wanted.extras}:
            key = f"{canonicalize_name(wanted.name)}[{extra}]"
            if key not in found:
                found[key] = distribution
                required = map(Requirement, distribution.requires or ())
                waiting += [each for each in required if each.marker is None or each.marker.evaluate({"extra": extra})]
    return list(found.values())


def _check_called(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            env=os.environ | {"PYTHONPATH": ""},
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not installed within {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.strip()]
        reasons = [line for line in said if line.startswith("ERROR")] or said or ["nothing said"]
        raise NotInstalled(f"not installed: {reasons[0][:300]}") from None
