"""Packages leave the cache when it is full, oldest use first, and never one that somebody uses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed.processes import environment
from whimbrel.core.errors import Unavailable
from whimbrel.core.package import Package, write_manifest
from whimbrel.core.package_cache import downloading, hold, partial_folder, shrink
from whimbrel.core.package_transfer import fetch, fetch_held, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BYTES = 10_000


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def cached(cache: Path, digit: str, used: float) -> Path:
    """A folder in the cache, last used at this time."""
    folder = cache / (digit * 64)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(BYTES))
    hold(folder).release()
    os.utime(cache / f"{folder.name}.use", (used, used))
    return folder


def names(cache: Path) -> list[str]:
    return sorted(path.name[0] + path.name[64:] for path in cache.iterdir())


def test_what_was_used_longest_ago_leaves_first(cache: Path) -> None:
    for digit, used in (("a", 300.0), ("b", 100.0), ("c", 200.0)):
        cached(cache, digit, used)

    shrink(cache, 3 * BYTES)
    assert names(cache) == ["a", "a.use", "b", "b.use", "c", "c.use"]
    shrink(cache, 2 * BYTES)
    assert names(cache) == ["a", "a.use", "c", "c.use"]
    shrink(cache, 0)
    assert names(cache) == []


def test_what_is_held_stays_and_counts_as_used_until_its_release(cache: Path) -> None:
    held, other = cached(cache, "a", 100.0), cached(cache, "b", 200.0)
    mine = hold(held)

    shrink(cache, 0)
    assert (held.is_dir(), other.is_dir()) == (True, False)
    mine.release()
    cached(cache, "b", 200.0)
    shrink(cache, BYTES)
    assert names(cache) == ["a", "a.use"]


def test_a_folder_that_is_no_package_is_left_alone(cache: Path) -> None:
    (cache / "notes").mkdir(parents=True)
    shrink(cache, 0)
    assert (cache / "notes").is_dir()


def test_no_cache_is_nothing_to_shrink(cache: Path) -> None:
    shrink(cache, 0)
    assert not cache.exists()


HOLDER = """
import sys, time
from pathlib import Path
from whimbrel.core.package_cache import downloading, hold, partial_folder
folder = Path(sys.argv[1])
held = hold(folder)
if sys.argv[2] == "downloads":
    with downloading(folder):
        partial_folder(folder).joinpath("half").write_bytes(b"x")
        print("ready", flush=True)
        time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(folder: Path, doing: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(folder), doing]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_what_another_process_uses_stays_until_that_is_killed(cache: Path) -> None:
    folder = cached(cache, "a", 100.0)
    with another_process(folder, "uses"):
        shrink(cache, 0)
        assert folder.is_dir()
    shrink(cache, 0)
    assert names(cache) == []


def test_what_another_process_downloads_stays_until_that_is_killed(cache: Path) -> None:
    folder = cache / ("a" * 64)
    with another_process(folder, "downloads"):
        shrink(cache, 0)
        assert len(list(cache.glob("*.partial"))) == 1
        with pytest.raises(Unavailable, match="another process downloads"), downloading(folder):
            pass
    shrink(cache, 0)
    assert names(cache) == []


def test_a_removal_that_was_killed_half_way_is_finished_by_the_next(cache: Path) -> None:
    folder = cached(cache, "a", 100.0)
    folder.rename(partial_folder(folder))

    shrink(cache, 10 * BYTES)

    assert names(cache) == []


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return packaged(tmp_path, "made")


def packaged(folder: Path, label: str) -> Package:
    made = folder / label
    made.mkdir()
    (made / "model.safetensors").write_bytes(label.encode() * (BYTES // len(label)))
    fields = {
        "task": "classification",
        "architecture": "torchvision:squeezenet1_1",
        "preset": {"height": 8, "width": 8},
        "labels": [label],
    }
    return write_manifest(made, fields, ["model.safetensors"])


def test_a_download_makes_room_for_itself(s3: S3Client, bucket: str, cache: Path, tmp_path: Path) -> None:
    first, second, third = (packaged(tmp_path, label) for label in ("first", "second", "third"))
    for each in (first, second, third):
        upload(each.folder, f"s3://{bucket}/{each.folder.name}", s3)
    held = fetch_held(f"s3://{bucket}/first", first.digest, cache, s3)
    fetch(f"s3://{bucket}/second", second.digest, cache, s3)

    fetch_held(f"s3://{bucket}/third", third.digest, cache, s3, cache_bytes=2 * BYTES).release()

    kept = {path.name for path in cache.iterdir() if path.is_dir()}
    assert kept == {each.digest.removeprefix("sha256:") for each in (first, third)}
    held.release()


class Stopped(Exception):
    pass


def test_a_download_ends_when_it_is_told_to_and_leaves_nothing(
    package: Package, s3: S3Client, bucket: str, cache: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    calls = iter(range(100))

    def check() -> None:
        if next(calls) == 1:
            raise Stopped

    with pytest.raises(Stopped):
        fetch_held(f"s3://{bucket}/m", package.digest, cache, s3, check=check)

    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == []
    fetch(f"s3://{bucket}/m", package.digest, cache, s3)


def test_whoever_holds_a_package_has_it_whatever_others_remove(
    package: Package, s3: S3Client, bucket: str, cache: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    ended, content = threading.Event(), package.weights.read_bytes()

    def remove() -> None:
        while not ended.is_set():
            shrink(cache, 0)

    def use(_: int) -> bool | None:
        with suppress(Unavailable):  # another one downloads or removes it: try again
            held = fetch_held(f"s3://{bucket}/m", package.digest, cache, s3)
            try:
                return held.package.weights.read_bytes() == content
            finally:
                held.release()
        return None

    with ThreadPoolExecutor(5) as threads:
        removing = threads.submit(remove)
        try:
            used = list(threads.map(use, range(60)))
        finally:
            ended.set()
        removing.result()
    assert False not in used
    assert use(0)
