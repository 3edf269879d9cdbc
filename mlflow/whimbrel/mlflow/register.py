"""Registers a model package as a version of a registered model: checked, measured, traceable, and once.

What lies in the store under the version's URI is the package, byte for byte, with MLflow's own `MLmodel` beside it.
The version appears last and with its digest, so a registration that is killed half-way leaves no version behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from whimbrel.core import pt2, registry
from whimbrel.core.errors import InputRefused, PackageRefused, Unavailable
from whimbrel.core.package import EXPORTED_ARCHITECTURE, MANIFEST, Package, verify
from whimbrel.core.package_transfer import upload
from whimbrel.core.references import ObjectRef
from whimbrel.core.registry import DIGEST_TAG, location_of
from whimbrel.core.tensors import IMAGES, OUTPUTS_OF_TASK

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TASK_TAG: Final = "whimbrel.task"
ARCHITECTURE_TAG: Final = "whimbrel.architecture"
ACCURACY_TAG: Final = "whimbrel.held_out_accuracy"
CODE_TAG: Final = "whimbrel.code_commit"
DATA_TAG: Final = "whimbrel.data_digest"
PARENT_TAG: Final = "whimbrel.parent_version"

_DTYPES: Final = {"INT64": "int64", "FP32": "float32", "BYTES": "str"}  # V2's datatype: numpy's

MLMODEL: Final = "MLmodel"
ACCURACY: Final = "held_out_accuracy"


@dataclass(frozen=True)
class Origin:
    """Where a package comes from. `metrics` are of pictures that were held out when it was made."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    data_digest: str | None = None
    parent: str | None = None


@dataclass(frozen=True)
class RegisteredVersion:
    """`created` is False when the package was a version already."""

    name: str
    version: str
    digest: str
    uri: str
    created: bool


def register(
    package: Package,
    name: str,
    tracking_uri: str,
    client: S3Client | None,
    *,
    origin: Origin | None = None,
    alias: str | None = None,
) -> RegisteredVersion:
    """The version of the registered model `name` that is `package`, made when there is none; `alias` points at it.

    `client` reaches the store that the registry keeps its artifacts in; None suffices for a folder. Raises
    PackageRefused (the package, or a registry whose artifacts nothing else can read), NotFound and Unavailable.
    """
    checked = verify(package.folder, package.digest)
    if checked.manifest.architecture == EXPORTED_ARCHITECTURE:
        pt2.check(checked.weights)
    version = _version_with(checked.digest, name, tracking_uri)
    created = version is None
    if version is None:
        _create(checked, name, tracking_uri, client, origin or Origin())
        version = _version_with(checked.digest, name, tracking_uri)
    if version is None:
        raise Unavailable(f"expected version {checked.digest} of {name!r} at {tracking_uri}, seen none after making it")
    location = location_of(version, tracking_uri)
    if alias is not None:
        registry.post(
            tracking_uri, "registered-models/alias", {"name": name, "alias": alias, "version": location.version}
        )
    return RegisteredVersion(name, location.version, location.digest, location.uri, created)


def code_commit(folder: Path) -> str | None:
    """The git commit that `folder` is at, with `-dirty` behind it when there are changes; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--match=", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _version_with(digest: str, name: str, tracking_uri: str) -> dict[str, Any] | None:
    """The latest version of `name` that is the package with that digest, as the registry's JSON of it."""
    if "'" in name or "/" in name:
        raise InputRefused(f"expected a model's name without quotes and slashes, seen {name!r}")
    query = {"filter": f"name='{name}' and tags.`{DIGEST_TAG}`='{digest}'", "order_by": "version_number DESC"}
    found: list[dict[str, Any]] = registry.get(tracking_uri, "model-versions/search", query).get("model_versions", [])
    return found[0] if found else None


def _create(package: Package, name: str, tracking_uri: str, client: S3Client | None, origin: Origin) -> None:
    with _mlflow_errors(name, tracking_uri):
        mlflow_client = _mlflow_client(tracking_uri)
        run_id, model = _logged_model(mlflow_client, package, name, origin)
        with tempfile.TemporaryDirectory() as folder:
            mlmodel = Path(folder) / MLMODEL
            _mlmodel(package, model, run_id).save(str(mlmodel))
            _store(package, model.artifact_location, mlmodel, client)
        mlflow_client.finalize_logged_model(model.model_id, "READY")
        _ensure_registered_model(mlflow_client, name)
        mlflow_client.create_model_version(
            name,
            f"models:/{model.model_id}",
            run_id,
            tags=_tags(package, origin),
            model_id=model.model_id,
            await_creation_for=None,
        )
        mlflow_client.set_terminated(run_id)


def _mlflow_client(tracking_uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # what is printed is the command line's
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri, tracking_uri)


def _logged_model(mlflow_client: Any, package: Package, name: str, origin: Origin) -> tuple[str, Any]:
    """A run with parameters and metrics, and the model that it gave, still without files."""
    from mlflow.entities import Metric, Param

    experiment = mlflow_client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else mlflow_client.create_experiment(name)
    run_id = mlflow_client.create_run(experiment_id).info.run_id
    parameters = _parameters(package, origin)
    model = mlflow_client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run_id,
        tags={DIGEST_TAG: package.digest},
        params=parameters,
        model_type=package.manifest.task,
    )
    now = int(time.time() * 1000)
    mlflow_client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0, model_id=model.model_id) for key, value in origin.metrics.items()],
        params=[Param(key, value) for key, value in parameters.items()],
    )
    return run_id, model


def _parameters(package: Package, origin: Origin) -> dict[str, str]:
    manifest = package.manifest
    return {
        "architecture": manifest.architecture,
        "task": manifest.task,
        "labels": str(len(manifest.labels)),
        **({"keypoints": str(len(manifest.keypoints))} if manifest.keypoints else {}),
        "input": f"{manifest.preset.height}x{manifest.preset.width} {manifest.preset.resize}",
        "torch_version": manifest.torch_version or "unknown",
        **origin.parameters,
    }


def _tags(package: Package, origin: Origin) -> dict[str, str]:
    accuracy = origin.metrics.get(ACCURACY)
    tags = {
        DIGEST_TAG: package.digest,
        TASK_TAG: package.manifest.task,
        ARCHITECTURE_TAG: package.manifest.architecture,
        ACCURACY_TAG: None if accuracy is None else f"{accuracy:.6g}",
        CODE_TAG: code_commit(Path.cwd()),
        DATA_TAG: origin.data_digest,
        PARENT_TAG: origin.parent,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _mlmodel(package: Package, model: Any, run_id: str) -> Any:
    """MLflow's description of the package: it shows the signature, and nobody loads the package by it."""
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    preset = package.manifest.preset
    outputs = OUTPUTS_OF_TASK.get(package.manifest.task)  # of a task of a user's own, only the predictor knows
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, preset.height, preset.width, 3), IMAGES)]),
        outputs=outputs
        and Schema([TensorSpec(np.dtype(_DTYPES[each.datatype]), each.shape, each.name) for each in outputs]),
    )
    return Model(
        artifact_path=model.artifact_location,
        run_id=run_id,
        model_id=model.model_id,
        flavors={"whimbrel": {"manifest": MANIFEST, "digest": package.digest}},
        signature=signature,
    )


def _store(package: Package, uri: str, mlmodel: Path, client: S3Client | None) -> None:
    """The package's files and MLmodel below `uri`."""
    parts = urlsplit(uri)
    if parts.scheme == "s3" and client is not None:
        target = ObjectRef.from_uri(uri)
        upload(package.folder, uri, client)
        client.put_object(Bucket=target.bucket, Key=f"{target.key.rstrip('/')}/{MLMODEL}", Body=mlmodel.read_bytes())
    elif parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path))
        for name in [*package.manifest.files, MANIFEST]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.folder / name, folder / name)
        shutil.copyfile(mlmodel, folder / MLMODEL)
    else:
        raise PackageRefused(
            f"expected a registry that keeps its artifacts at s3:// or file://, seen {uri!r}; run it with "
            "'--default-artifact-root s3://BUCKET/PREFIX --no-serve-artifacts'"
        )


def _ensure_registered_model(mlflow_client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _mlflow_errors(name: str, tracking_uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise Unavailable(
            f"expected the model registry at {tracking_uri} to register {name!r}, seen {str(error)[:500]}"
        ) from None
