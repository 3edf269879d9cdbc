"""Packages as a predictor gets them in production: in a store, behind a pointer with what was attested of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.stores import CREDENTIALS, Store, moto_store
from whimbrel.core.attestations import Attestations
from whimbrel.core.errors import WhimbrelError
from whimbrel.core.model_pointer import PointedVersion, Pointer, PointerStore
from whimbrel.core.package import Package
from whimbrel.core.package_transfer import put_beside, upload
from whimbrel.core.references import ObjectRef
from whimbrel.predictors import compiling
from whimbrel.predictors.precision import Precision
from whimbrel.predictors.torch_network import agreement_on, choose_device

BUCKET, MAX_BATCH = "models", 64


@dataclass(frozen=True)
class Pointers:
    """`plain` leads to a package whose agreement is attested, `compiled` to the same one with its compiled code; None
    where none can be made here. `cache`: where predictors keep what they fetched."""

    plain: str
    compiled: str | None
    cache: Path


@contextmanager
def store_in(folder: Path) -> Iterator[Store]:
    """An S3 server for the packages, and its credentials in the environment."""
    os.environ.update(CREDENTIALS)
    with moto_store(folder) as store:
        store.s3().create_bucket(Bucket=BUCKET)
        yield store


def registered(name: str, package: Package, store: Store, folder: Path) -> Pointers:
    """Put, compiled for batches of up to MAX_BATCH in the precision that `auto` chooses here, and attested."""
    device, uri, client = choose_device("auto"), f"s3://{BUCKET}/{name}/package", store.s3()
    upload(package.folder, uri, client)

    def pointer(kind: str, attested: Attestations) -> str:
        place = ObjectRef(BUCKET, f"{name}/{kind}/pointer.json")
        version = PointedVersion(version="0", uri=uri, digest=package.digest, attestations=attested)
        PointerStore(client, place).write(Pointer(current=version), None)
        return f"pointer+{place.uri}"

    agreement = agreement_on(package, device)
    attested = Attestations(agreements=(agreement,) if agreement is not None else ())
    plain = pointer("plain", attested)
    dtype: Precision = "bfloat16" if agreement is not None and agreement.suffices else "float32"
    try:
        made = compiling.compile_code(package, device, dtype, MAX_BATCH, folder)
    except WhimbrelError as error:
        print(f"{name} is not compiled: {error}", flush=True)
        return Pointers(plain, None, folder / "cache")
    put_beside(made.path, uri, made.code.path, client)
    by_code = pointer("compiled", attested.model_copy(update={"compiled": (made.code,)}))
    return Pointers(plain, by_code, folder / "cache")


def following(pointer: str, cache: Path) -> dict[str, str]:
    """A predictor's settings."""
    said_by_the_pointer = {"model_digest": "", "model_version": "", "repository_api": ""}  # and no other API beside it
    return said_by_the_pointer | {
        "model_uri": pointer,
        "model_cache": str(cache),
        "allowed_uri_prefixes": f"s3://{BUCKET}",
        "dtype": "auto",
        "compiled_code": "true",
    }
