"""What is attested of a version is found where its digest is, and nothing that anybody writes beside it breaks that."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from testbed import code_archives
from testbed.registry import tag_version
from whimbrel.core.attestations import Agreement, Attestations, CompiledCode
from whimbrel.core.hardware import cpu_target
from whimbrel.core.model_pointer import pointed
from whimbrel.core.package import WEIGHTS, sha256_of_file, write_manifest
from whimbrel.core.package_transfer import fetch_beside
from whimbrel.core.registry import resolve
from whimbrel.mlflow.attest import attest, store_code
from whimbrel.mlflow.register import register

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TARGET = cpu_target("2.15.0")


def agreement(agreeing: int) -> Agreement:
    return Agreement(
        hardware_class=TARGET.hardware_class, torch=TARGET.torch, dtype="bfloat16", images=200, agreeing=agreeing
    )


def test_what_is_attested_is_resolved_with_the_version(tracking_uri: str, s3: S3Client, tmp_path: Path) -> None:
    name = f"digits-{uuid.uuid4().hex[:8]}"
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    fields = {"task": "classification", "architecture": "torchvision:resnet18", "labels": ["zero"]}
    made = write_manifest(tmp_path, {**fields, "preset": {"height": 8, "width": 8}}, [WEIGHTS])
    register(made, name, tracking_uri, s3)
    assert resolve(f"models:/{name}/1", tracking_uri).attestations == Attestations()

    attest(name, "1", agreement(150), tracking_uri)
    attest(name, "1", agreement(199), tracking_uri)  # in place of the first
    code_archives.write(tmp_path / "code")
    sha256, size = sha256_of_file(tmp_path / "code"), (tmp_path / "code").stat().st_size
    code = CompiledCode(target=TARGET, dtype="bfloat16", max_batch=64, sha256=sha256, size=size)
    store_code(resolve(f"models:/{name}/1", tracking_uri), tmp_path / "code", code, tracking_uri, s3)
    tag_version(tracking_uri, name, "1", "whimbrel.compiled.0000", "written by hand")

    location = resolve(f"models:/{name}/1", tracking_uri)
    assert location.attestations == Attestations(agreements=(agreement(199),), compiled=(code,))
    assert pointed(location).attestations == location.attestations
    fetch_beside(location.uri, code, tmp_path / "fetched", s3)
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "code").read_bytes()
