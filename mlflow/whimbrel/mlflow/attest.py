"""Tells the registry what was measured of a version, or compiled for it, on some hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.core import code_archive, registry
from whimbrel.core.attestations import Agreement, CompiledCode, tag_of
from whimbrel.core.package_transfer import put_beside
from whimbrel.core.registry import ModelLocation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def attest(name: str, version: str, attestation: Agreement | CompiledCode, tracking_uri: str) -> None:
    """As a tag, in place of an older one of its kind. Raises NotFound and Unavailable."""
    key, value = tag_of(attestation)
    document = {"name": name, "version": version, "key": key, "value": value}
    registry.post(tracking_uri, "model-versions/set-tag", document)


def store_code(
    location: ModelLocation, path: Path, code: CompiledCode, tracking_uri: str, client: S3Client | None
) -> None:
    """Put the file at `path`, which `code` describes, beside the package; then the tag, so that what it names is there.

    Raises PackageRefused, NotFound and Unavailable.
    """
    code_archive.check(path)
    put_beside(path, location.uri, code.path, client)
    attest(location.name, location.version, code, tracking_uri)
