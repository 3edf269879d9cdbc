"""Registers a model package as a version of a registered model: checked, measured, traceable, and once.

What lies in the store under the version's URI is the package, byte for byte, with MLflow's own `MLmodel` beside it. The
run that the version names has its figures on held-out pictures, the confusion matrix and the pictures worth a look.
The version appears last and with its digest, so a registration that is killed half-way leaves no version behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from whimbrel.core import pt2, registry
from whimbrel.core.attestations import Agreement
from whimbrel.core.errors import InputRefused, Unavailable
from whimbrel.core.package import EXPORTED_ARCHITECTURE, MANIFEST, Package, canonical_json, verify
from whimbrel.core.package_transfer import upload
from whimbrel.core.registry import DIGEST_TAG, location_of
from whimbrel.core.tensors import IMAGES, OUTPUTS_OF_TASK
from whimbrel.mlflow.artifacts import folder_of, put_files
from whimbrel.mlflow.attest import attest
from whimbrel.mlflow.evaluation import Evaluation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TASK_TAG: Final = "whimbrel.task"
ARCHITECTURE_TAG: Final = "whimbrel.architecture"
ACCURACY_TAG: Final = "whimbrel.held_out_accuracy"
CODE_TAG: Final = "whimbrel.code_commit"
DATA_TAG: Final = "whimbrel.data_digest"
HELD_OUT_TAG: Final = "whimbrel.held_out_digest"
PARENT_TAG: Final = "whimbrel.parent_version"

_DTYPES: Final = {"INT64": "int64", "FP32": "float32", "BYTES": "str"}  # V2's datatype: numpy's

MLMODEL: Final = "MLmodel"
MODEL_TRAINING: Final = {"mlflow.experimentKind": "custom_model_development"}  # which of its pages MLflow shows
SOURCE_COMMIT: Final = "mlflow.source.git.commit"  # MLflow's own, which its page shows
EVALUATION: Final = "evaluation"  # the folder of a run that its files are in


@dataclass(frozen=True)
class Origin:
    """Where a package comes from. `evaluation` is on pictures that were held out when it was made."""

    evaluation: Evaluation | None = None
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
    measure: Callable[[Package], Agreement | None] | None = None,
    alias: str | None = None,
) -> RegisteredVersion:
    """The version of the registered model `name` that is `package`, made when there is none; `alias` points at it.

    What `measure` says of the package is attested of the version. The alias comes last: what follows it, a rollout for
    one, carries along what is attested by then. Of a version that is there already, the evaluation is replaced by the
    one of `origin`, and nothing else. `client` reaches the store that the registry keeps its artifacts in; None
    suffices for a folder. Raises PackageRefused (the package, or a registry whose artifacts nothing else can read),
    NotFound and Unavailable.
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
    if not created and origin is not None and origin.evaluation is not None:
        _evaluate_again(version, name, tracking_uri, client, origin.evaluation)
    if measure is not None and (measured := measure(checked)) is not None:
        attest(name, location.version, measured, tracking_uri)
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
    tags = _tags(package, origin)
    with _mlflow_errors(name, tracking_uri):
        mlflow_client = _mlflow_client(tracking_uri)
        run, model = _logged_model(mlflow_client, package, name, origin, tags)
        run_id = run.info.run_id
        with tempfile.TemporaryDirectory() as folder:
            mlmodel = Path(folder) / MLMODEL
            _mlmodel(package, model, run_id).save(str(mlmodel))
            _store(package, model.artifact_location, mlmodel.read_bytes(), client)
        if origin.evaluation is not None:
            _log_evaluation(mlflow_client, run, model.model_id, origin.evaluation, client)
        mlflow_client.finalize_logged_model(model.model_id, "READY")
        _ensure_registered_model(mlflow_client, name)
        mlflow_client.create_model_version(
            name, f"models:/{model.model_id}", run_id, tags=tags, model_id=model.model_id, await_creation_for=None
        )
        mlflow_client.set_terminated(run_id)


def _evaluate_again(
    version: Mapping[str, Any], name: str, tracking_uri: str, client: S3Client | None, evaluation: Evaluation
) -> None:
    with _mlflow_errors(name, tracking_uri):
        mlflow_client = _mlflow_client(tracking_uri)
        run = mlflow_client.get_run(version["run_id"])
        _log_evaluation(mlflow_client, run, version.get("model_id"), evaluation, client)
        for key, value in _evaluation_tags(evaluation).items():
            mlflow_client.set_model_version_tag(name, version["version"], key, value)


def _log_evaluation(
    mlflow_client: Any, run: Any, model_id: str | None, evaluation: Evaluation, client: S3Client | None
) -> None:
    """The files before the figures: where there are figures there is what they are about."""
    from mlflow.entities import Metric

    files = {f"{EVALUATION}/{file}": content for file, content in evaluation_files(evaluation).items()}
    put_files(run.info.artifact_uri, files, client)
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0, model_id=model_id) for key, value in evaluation.metrics.items()]
    mlflow_client.log_batch(run.info.run_id, metrics=metrics)


def evaluation_files(evaluation: Evaluation) -> dict[str, bytes]:
    """By name: evaluation.json, and as pictures the confusion matrix, the surest mistakes and some that are right."""
    from whimbrel.mlflow.evaluation_pictures import confusion_png, sheet_png

    files = {
        "evaluation.json": json.dumps(evaluation.document, indent=1, ensure_ascii=False).encode(),
        "confusion_matrix.png": confusion_png(evaluation),
        "mistakes.png": sheet_png(evaluation, evaluation.mistakes),
        "right.png": sheet_png(evaluation, evaluation.right),
    }
    return {name: content for name, content in files.items() if content is not None}


def _mlflow_client(tracking_uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # what is printed is the command line's
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri, tracking_uri)


def _logged_model(
    mlflow_client: Any, package: Package, name: str, origin: Origin, tags: Mapping[str, str]
) -> tuple[Any, Any]:
    """A run with parameters and tags, and the model that it gave, still without files."""
    from mlflow.entities import LoggedModelOutput, Param

    experiment = mlflow_client.get_experiment_by_name(name)
    experiment_id = (
        experiment.experiment_id if experiment else mlflow_client.create_experiment(name, tags=MODEL_TRAINING)
    )
    commit = {SOURCE_COMMIT: tags[CODE_TAG]} if CODE_TAG in tags else {}
    called = origin.parameters.get("recipe", package.manifest.architecture)
    run = mlflow_client.create_run(experiment_id, tags={**tags, **commit}, run_name=called)
    parameters = _parameters(package, origin)
    model = mlflow_client.create_logged_model(
        experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        tags={DIGEST_TAG: package.digest},
        params=parameters,
        model_type=package.manifest.task,
    )
    params = [Param(key, value) for key, value in parameters.items()]
    mlflow_client.log_batch(run.info.run_id, params=params)
    mlflow_client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return run, model


def _parameters(package: Package, origin: Origin) -> dict[str, str]:
    manifest = package.manifest
    return {
        "architecture": manifest.architecture,
        "task": manifest.task,
        "labels": str(len(manifest.labels)),
        **({"keypoints": str(len(manifest.keypoints))} if manifest.keypoints else {}),
        "input": f"{manifest.preset.height}x{manifest.preset.width} {manifest.preset.resize}",
        "preset": canonical_json(manifest.preset.model_dump(mode="json", exclude_none=True)).decode(),
        "torch_version": manifest.torch_version or "unknown",
        **origin.parameters,
    }


def _tags(package: Package, origin: Origin) -> dict[str, str]:
    tags = {
        DIGEST_TAG: package.digest,
        TASK_TAG: package.manifest.task,
        ARCHITECTURE_TAG: package.manifest.architecture,
        CODE_TAG: code_commit(Path.cwd()),
        DATA_TAG: origin.data_digest,
        PARENT_TAG: origin.parent,
    }
    found = {key: value for key, value in tags.items() if value is not None}
    return found | ({} if origin.evaluation is None else _evaluation_tags(origin.evaluation))


def _evaluation_tags(evaluation: Evaluation) -> dict[str, str]:
    return {ACCURACY_TAG: f"{evaluation.accuracy:.6g}", HELD_OUT_TAG: evaluation.held_out_digest}


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


def _store(package: Package, uri: str, mlmodel: bytes, client: S3Client | None) -> None:
    """The package's files and MLmodel below `uri`."""
    folder = folder_of(uri)
    if folder is not None:
        for name in [*package.manifest.files, MANIFEST]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.folder / name, folder / name)
    elif client is not None:
        upload(package.folder, uri, client)
    put_files(uri, {MLMODEL: mlmodel}, client)


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
