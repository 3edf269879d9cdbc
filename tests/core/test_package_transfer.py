"""A package into a store and back: whole, verified, or not there at all."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from whimbrel.core.errors import NotFound, PackageRefused, Unavailable
from whimbrel.core.package import MANIFEST, Package, write_manifest
from whimbrel.core.package_transfer import fetch, manifest_of, upload
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FIELDS: dict[str, Any] = {
    "task": "classification",
    "architecture": "torchvision:squeezenet1_1",
    "preset": {"height": 8, "width": 8},
    "labels": ["a", "b"],
}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    folder = tmp_path / "made"
    (folder / "extra").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "extra" / "calibration.bin").write_bytes(b"")
    return write_manifest(folder, FIELDS, ["model.safetensors", "extra/calibration.bin"])


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.name.endswith(".partial")]


def test_what_was_uploaded_is_fetched_and_verified(package: Package, s3: S3Client, bucket: str, tmp_path: Path) -> None:
    uri, cache = f"s3://{bucket}/models/digits/", tmp_path / "cache"

    assert upload(package.folder, uri, s3).digest == package.digest
    fetched = fetch(uri, package.digest, cache, s3)

    assert fetched.manifest == package.manifest
    assert fetched.weights.read_bytes() == package.weights.read_bytes()
    assert leftovers(cache) == []


def test_a_cached_package_needs_no_store(package: Package, s3: S3Client, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/m"
    upload(package.folder, uri, s3)
    first = fetch(uri, package.digest, tmp_path / "cache", s3)
    for name in ("m/model.safetensors", f"m/{MANIFEST}"):
        s3.delete_object(Bucket=bucket, Key=name)

    assert fetch(uri, package.digest, tmp_path / "cache", s3).folder == first.folder


def test_a_manifest_is_read_alone(package: Package, s3: S3Client, bucket: str, tmp_path: Path) -> None:
    uri, cache = f"s3://{bucket}/m", tmp_path / "cache"
    s3.upload_file(str(package.folder / MANIFEST), bucket, f"m/{MANIFEST}")

    assert manifest_of(uri, package.digest, cache, s3) == package.manifest
    assert manifest_of(package.folder.as_uri(), package.digest, cache, None) == package.manifest
    with pytest.raises(PackageRefused, match=package.digest):
        manifest_of(uri, "sha256:" + "1" * 64, cache, s3)
    with pytest.raises(PackageRefused, match=package.digest):
        manifest_of(package.folder.as_uri(), "sha256:" + "1" * 64, cache, None)


def test_a_manifest_comes_from_the_cache_unless_damaged(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    uri, cache = f"s3://{bucket}/m", tmp_path / "cache"
    upload(package.folder, uri, s3)
    cached = fetch(uri, package.digest, cache, s3).folder / MANIFEST
    cached.write_text("{")
    assert manifest_of(uri, package.digest, cache, s3) == package.manifest
    fetch(uri, package.digest, cache, s3)
    s3.delete_object(Bucket=bucket, Key=f"m/{MANIFEST}")
    assert manifest_of(uri, package.digest, cache, s3) == package.manifest


def test_a_damaged_cache_is_downloaded_again(package: Package, s3: S3Client, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/m"
    upload(package.folder, uri, s3)
    fetch(uri, package.digest, tmp_path / "cache", s3).weights.write_bytes(b"damaged")

    again = fetch(uri, package.digest, tmp_path / "cache", s3)

    assert again.weights.read_bytes() == package.weights.read_bytes()


def test_a_half_download_of_a_killed_process_is_thrown_away(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    uri, cache = f"s3://{bucket}/m", tmp_path / "cache"
    upload(package.folder, uri, s3)
    half = cache / f"{package.digest.removeprefix('sha256:')}.abc.partial"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"wei")

    fetch(uri, package.digest, cache, s3)

    assert leftovers(cache) == []


@pytest.mark.parametrize("content", [b"shorter", b"longer" * 2000, b"WEIGHTS" * 1000])
def test_a_file_that_is_not_the_listed_one_is_refused(
    content: bytes, package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    s3.put_object(Bucket=bucket, Key="m/model.safetensors", Body=content)

    with pytest.raises(PackageRefused, match=r"model\.safetensors"):
        fetch(f"s3://{bucket}/m", package.digest, tmp_path / "cache", s3)

    assert leftovers(tmp_path / "cache") == []
    assert not (tmp_path / "cache" / package.digest.removeprefix("sha256:")).exists()


def test_another_package_is_refused_before_its_files_are_asked_for(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    s3.delete_object(Bucket=bucket, Key="m/model.safetensors")

    with pytest.raises(PackageRefused, match="expected the model package sha256:0000"):
        fetch(f"s3://{bucket}/m", "sha256:" + "0" * 64, tmp_path / "cache", s3)


def test_a_package_above_the_limit_is_refused_before_the_download(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    s3.delete_object(Bucket=bucket, Key="m/model.safetensors")

    with pytest.raises(PackageRefused, match="at most 6999 bytes, seen 7000"):
        fetch(f"s3://{bucket}/m", package.digest, tmp_path / "cache", s3, max_bytes=6999)


def test_while_another_process_downloads_it_is_to_be_tried_again(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    upload(package.folder, f"s3://{bucket}/m", s3)
    lock = tmp_path / f"{package.digest.removeprefix('sha256:')}.lock"
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process"):
            fetch(f"s3://{bucket}/m", package.digest, tmp_path, s3)


def test_missing_is_not_found_and_a_silent_store_is_unavailable(
    package: Package, s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="NoSuchKey"):
        fetch(f"s3://{bucket}/nothing", package.digest, tmp_path, s3)
    with pytest.raises(NotFound, match="NoSuchBucket"):
        upload(package.folder, "s3://no-such-bucket-here/m", s3)
    silent = s3_client(S3Settings(s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_max_attempts=1))
    with pytest.raises(Unavailable, match="does not answer"):
        fetch(f"s3://{bucket}/m", package.digest, tmp_path, silent)
    with pytest.raises(Unavailable):
        upload(package.folder, f"s3://{bucket}/m", silent)


def test_a_folder_is_verified_where_it_lies(package: Package, tmp_path: Path) -> None:
    assert fetch(package.folder.as_uri(), package.digest, tmp_path, None).folder == package.folder
    package.weights.write_bytes(b"damaged")
    with pytest.raises(PackageRefused, match="bytes"):
        fetch(package.folder.as_uri(), package.digest, tmp_path, None)


@pytest.mark.parametrize("uri", ["http://somewhere/m", "file://elsewhere/m", "/plain/path", "models:/digits/1"])
def test_other_places_are_refused(uri: str, package: Package, s3: S3Client, tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="expected a model package at"):
        fetch(uri, package.digest, tmp_path, s3)


def test_nothing_is_fetched_without_a_digest(s3: S3Client, tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="expected a digest"):
        fetch("s3://bucket/m", "latest", tmp_path, s3)
