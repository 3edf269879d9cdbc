"""A model package is taken only when every byte is the one that its digest stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.errors import PackageRefused
from whimbrel.core.package import MANIFEST, Package, Preset, parse_manifest, verify, write_manifest

FIELDS: dict[str, Any] = {
    "task": "classification",
    "architecture": "torchvision:resnet18",
    "preset": {"height": 8, "width": 8},
    "labels": ["zero", "one"],
}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return write_manifest(tmp_path, FIELDS, ["model.safetensors"])


def rewrite(package: Package, **changes: Any) -> None:
    path = package.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_a_package_is_taken_by_its_digest(package: Package) -> None:
    assert verify(package.folder, package.digest) == package
    assert package.manifest.labels == ("zero", "one")
    assert package.weights.read_bytes() == b"weights"


def test_the_digest_is_that_of_the_meaning_not_of_the_white_space(package: Package) -> None:
    path = package.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=4))
    assert verify(package.folder, package.digest).digest == package.digest


def test_another_package_than_the_expected_one_is_refused(package: Package) -> None:
    with pytest.raises(PackageRefused, match=r"expected the model package sha256:0+, seen sha256:"):
        verify(package.folder, "sha256:" + "0" * 64)


def test_changed_labels_are_another_package(package: Package) -> None:
    rewrite(package, labels=["one", "zero"])
    with pytest.raises(PackageRefused, match="expected the model package"):
        verify(package.folder, package.digest)


@given(st.binary(min_size=1, max_size=20).filter(lambda content: content != b"weights"))
def test_changed_weights_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("package")
    (folder / "model.safetensors").write_bytes(b"weights")
    package = write_manifest(folder, FIELDS, ["model.safetensors"])
    package.weights.write_bytes(content)
    with pytest.raises(PackageRefused, match=r"model\.safetensors"):
        verify(folder, package.digest)


def test_a_missing_file_is_refused(package: Package) -> None:
    package.weights.unlink()
    with pytest.raises(PackageRefused, match="seen none"):
        verify(package.folder, package.digest)


def test_a_link_out_of_the_package_is_refused(package: Package, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "weights"
    outside.write_bytes(b"weights")
    package.weights.unlink()
    package.weights.symlink_to(outside)
    with pytest.raises(PackageRefused, match="inside the model package"):
        verify(package.folder, package.digest)


def test_a_folder_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match=r"model\.json"):
        verify(tmp_path, None)


ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"files": {"../model.safetensors": ENTRY, "model.safetensors": ENTRY}}, r"\.\./model\.safetensors"),
        ({"files": {"/etc/passwd": ENTRY, "model.safetensors": ENTRY}}, "/etc/passwd"),
        ({"files": {"model.json": ENTRY, "model.safetensors": ENTRY}}, r"model\.json"),
        ({"files": {"model.pt2": ENTRY}}, "expected model.safetensors"),
        ({"files": {"model.safetensors": {"sha256": "x", "size": 1}}}, "sha256"),
        ({"architecture": "pickle"}, "architecture"),
        ({"architecture": "torchvision:resnet18", "task": "poetry"}, "task"),
        ({"labels": []}, "labels"),
        ({"preset": {"height": 8}}, "width"),
        ({"preset": {"height": 8, "width": 8, "resize": "crop"}}, "resize_size"),
        ({"preset": {"height": 8, "width": 8, "resize": "crop", "resize_size": 4}}, "at least 8"),
        ({"preset": {"height": 8, "width": 8, "std": [1, 0, 1]}}, "std"),
        ({"preset": {"height": 9999, "width": 8}}, "height"),
        ({"extra": 1}, "extra"),
        ({"schema": "whimbrel.dev/model/v2"}, "schema"),
    ],
)
def test_a_wrong_manifest_names_its_fault(package: Package, changes: dict[str, Any], named: str) -> None:
    rewrite(package, **changes)
    with pytest.raises(PackageRefused, match=named):
        verify(package.folder, None)


@given(st.binary(max_size=60))
def test_any_bytes_are_no_manifest(content: bytes) -> None:
    with pytest.raises(PackageRefused):
        parse_manifest(content)


def test_a_preset_is_known_by_its_content() -> None:
    assert Preset(height=8, width=8).digest == Preset(height=8, width=8, resize="stretch").digest
    assert Preset(height=8, width=8).digest != Preset(height=8, width=9).digest
