"""What is shipped: a wheel that holds every room, and root folders that shadow nobody's package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from testbed.processes import environment

ROOT = Path(__file__).parents[2]
ROOMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["dev-mode-dirs"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment())
    (built,) = folder.glob("whimbrel-*.whl")
    return built


def test_the_wheel_holds_every_module_of_every_room_and_nothing_else(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT / room)) for room in ROOMS for path in (ROOT / room / "whimbrel").rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    assert packed == expected
    assert len(expected) > 100


def test_every_room_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """From the unpacked wheel alone: the editable install of this checkout is put aside."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        f"for room in {ROOMS!r}:\n"
        "    module = importlib.import_module('whimbrel.' + room)\n"
        "    assert module.__file__.startswith(sys.argv[1]), module.__file__\n"
    )
    # -S leaves out the .pth files of the editable install; the libraries are put back behind the wheel.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    run_python("-S", "-c", f"import sys; sys.path += {libraries!r}\n{script}", str(tmp_path))


@pytest.mark.parametrize("name", ["mlflow", "transformers"])
def test_the_root_folders_do_not_shadow_the_real_packages(name: str) -> None:
    script = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    found = run_python("-c", script, folder=ROOT)
    if name == "mlflow":
        assert "site-packages" in found
    else:
        assert found.strip() == "None", "not installed, and the room of that name is not taken for it"


def test_no_folder_that_would_shadow_a_package_has_an_init() -> None:
    for room in ROOMS:
        assert not (ROOT / room / "__init__.py").exists()
        assert not (ROOT / room / "whimbrel" / "__init__.py").exists()
    assert not list((ROOT / "tests").glob("*/__init__.py"))


def run_python(*arguments: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(), cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
