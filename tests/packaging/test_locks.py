"""The images' locks: hashed, consistent with the extras, without an index's name, and enough to start each program."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from testbed.lock_environments import LOCKS, ROOT, STARTS, Start, check, linked, requirements

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL_LOCKS = sorted(ROOT.glob("*/requirements*.lock"))
ENVIRONMENTS = [
    {"python_version": version, "python_full_version": f"{version}.5", "platform_machine": machine}
    | {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython"}
    for version in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]
CUDA = re.compile(r"^(torch|torchvision|triton|cuda-.*|nvidia-.*)$")

each_lock = pytest.mark.parametrize("lock", ALL_LOCKS, ids=lambda lock: f"{lock.parent.name}/{lock.name}")
each_room = pytest.mark.parametrize("room", LOCKS)


def test_every_room_that_deploys_has_a_lock() -> None:
    assert {str(lock.relative_to(ROOT)) for lock in ALL_LOCKS} == {
        *LOCKS.values(),
        "predictors/requirements.cpu.lock",
        "mlflow/requirements.cpu.lock",
    }
    assert {path.parent.name for path in ROOT.glob("*/Dockerfile")} == set(LOCKS)


@each_lock
def test_every_line_is_a_pin_with_hashes_and_names_no_index(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"(?m)^(?=[a-zA-Z0-9])", text)[1:]

    assert "".join(entries) == text
    for entry in entries:
        pin = Requirement(entry.splitlines()[0].rstrip(" \\"))
        assert [each.operator for each in pin.specifier] == ["=="], entry
        hashes = entry.splitlines()[1:]
        assert hashes, entry
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), entry
    assert "://" not in text


def pinned(lock: Path, marker_environment: dict[str, str]) -> dict[str, Version]:
    return {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version)
        for pin in requirements(lock)
        if pin.marker is None or pin.marker.evaluate(marker_environment)
    }


def wanted(*extras: str) -> Iterator[Requirement]:
    """What the project needs with these extras, those that they name among them."""
    for text in (*PROJECT["dependencies"], *(t for extra in extras for t in PROJECT["optional-dependencies"][extra])):
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            yield from wanted(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize(
    "marker_environment", ENVIRONMENTS, ids=lambda each: f"{each['python_version']}-{each['platform_machine']}"
)
@each_room
def test_a_lock_fulfils_its_extra(room: str, marker_environment: dict[str, str]) -> None:
    pins = pinned(ROOT / LOCKS[room], marker_environment)

    missing = [str(each) for each in wanted(room, "tracing") if not fulfils(pins, each)]

    assert missing == [], "the extra has changed since; write the lock anew with 'make locks'"


def fulfils(pins: dict[str, Version], requirement: Requirement) -> bool:
    version = pins.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


@each_room
def test_a_lock_holds_what_its_distributions_need(room: str) -> None:
    """By the metadata of those that are installed here in the locked version."""
    pins = pinned(ROOT / LOCKS[room], {})
    todo = [(canonicalize_name(each.name), frozenset(each.extras)) for each in wanted(room, "tracing")]
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or not _is_here(name, pins[name]):
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if _applies(requirement, extras):
                assert fulfils(pins, requirement), f"{name} needs {requirement}"
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    if len(seen) < 5:
        pytest.skip(
            "almost nothing of it is installed here in the locked version; 'make check-locks' installs the lock"
        )


def _is_here(name: str, version: Version) -> bool:
    try:
        return Version(metadata.version(name)) == version
    except metadata.PackageNotFoundError:
        return False


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": each}) for each in (*extras, ""))


@pytest.mark.parametrize("room", ["predictors", "mlflow"])
def test_the_cpu_lock_is_the_other_one_without_cuda(room: str) -> None:
    cuda, cpu = (requirements(ROOT / room / f"requirements.{variant}.lock") for variant in ("cuda", "cpu"))
    pair = {str(each) for each in cuda if each.name in ("torch", "torchvision")}

    assert [str(each) for each in cpu] == [str(each) for each in cuda if not CUDA.match(each.name)]
    assert set((ROOT / room / "requirements.torch.txt").read_text().split()) == pair
    assert len(pair) == 2


def test_what_trains_and_what_serves_have_the_same_torch() -> None:
    texts = {(ROOT / room / "requirements.torch.txt").read_text() for room in ("predictors", "mlflow")}

    assert len(texts) == 1


@each_room
def test_an_image_has_what_the_manifests_ask_of_it(room: str) -> None:
    """No compiler in what is shipped, no root, nothing from the current folder, the room as its program."""
    build, _, last = (ROOT / room / "Dockerfile").read_text().partition("\nFROM ${PYTHON_IMAGE}\n")

    assert re.search(r"^ARG PYTHON_IMAGE=\S+$", build, re.MULTILINE)
    assert "FROM ${PYTHON_IMAGE} AS build" in build
    assert "--require-hashes" in build
    assert "COPY dist/whimbrel-*.whl" in build
    assert [line for line in last.splitlines() if line.startswith("RUN")] == []
    assert "USER 65532:65532" in last
    assert "PYTHONSAFEPATH=1" in last
    assert f'ENTRYPOINT ["python", "-m", "whimbrel.{room}"]' in last
    for name in re.findall(rf"{room}/(requirements\S*)", build):
        assert list((ROOT / room).glob(name.replace("${VARIANT}", "*"))), f"{name}, which the Dockerfile copies"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_every_image_of_the_manifests_is_built() -> None:
    planned = make("--dry-run", "images", "CONTAINER_ENGINE=podman", "REGISTRY=registry.example/team", "TAG=7")
    built = re.findall(r"--file (\S+) .*--tag registry\.example/team/whimbrel/(\S+):7 \.", planned.stdout)
    images = yaml.safe_load((ROOT / "manifests" / "components" / "images" / "kustomization.yaml").read_text())["images"]

    assert planned.returncode == 0, planned.stderr
    assert {f"whimbrel/{name}" for _, name in built} == {each["name"] for each in images}
    assert all((ROOT / dockerfile).is_file() for dockerfile, _ in built)


def test_without_docker_and_podman_the_remedy_is_named() -> None:
    refused = make("engine", "CONTAINER_ENGINE=")

    assert refused.returncode != 0
    assert "expected docker or podman, seen neither; install one" in refused.stderr


@pytest.mark.parametrize("start", STARTS, ids=lambda start: " ".join((start.room, *start.arguments[:2])))
def test_a_program_starts_with_only_what_its_lock_names(start: Start, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    script = tmp_path / "start.py"
    script.write_text(
        f"import runpy, sys\nsys.path[:] = {linked(start.room, packages)!r}\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )

    # -S: no site-packages but the links; -P would not help there.
    check(start, [sys.executable, "-S", str(script)], tmp_path / "log")
