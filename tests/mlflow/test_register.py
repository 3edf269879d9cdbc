"""A package becomes a version of a registered model once, whole, with its digest, and is found again by its alias."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from testbed.registry import tag_version
from whimbrel.core.attestations import Agreement
from whimbrel.core.errors import InputRefused, NotFound, PackageRefused, Unavailable
from whimbrel.core.package import EXPORTED, WEIGHTS, Package, write_manifest
from whimbrel.core.package_transfer import fetch
from whimbrel.core.references import ObjectRef
from whimbrel.core.registry import get, resolve
from whimbrel.mlflow.evaluation import Answered, Evaluation, Tally
from whimbrel.mlflow.register import MLMODEL, Origin, code_commit, register
from whimbrel.mlflow.registry_view import list_aliases, list_models, list_versions, set_alias, show_version

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def evaluated(*right: bool) -> Evaluation:
    tally = Tally(("zero", "one"))
    for number, each in enumerate(right):
        answer = (0, 1) if each else (1, 0)
        tally.add(Answered(f"{number}.png", bytes([number]), 0, answer, (0.9, 0.1), np.zeros((8, 8, 3), np.uint8)))
    return tally.evaluation()


ORIGIN = Origin(
    evaluation=evaluated(True, True, True, False),
    parameters={"recipe": "digits/cnn"},
    data_digest="sha256:" + "d" * 64,
    parent="1",
)


@pytest.fixture
def name() -> str:
    return f"digits-{uuid.uuid4().hex[:8]}"


def package(folder: Path, content: bytes = b"weights", **more: object) -> Package:
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(content)
    fields = {
        "task": "classification",
        "architecture": "torchvision:resnet18",
        "preset": {"height": 8, "width": 8},
        "labels": ["zero", "one"],
        "torch_version": "2.15.0",
    }
    return write_manifest(folder, fields | more, [WEIGHTS])


@pytest.fixture
def made(tmp_path: Path) -> Package:
    return package(tmp_path / "package")


def test_what_lies_at_the_versions_uri_is_the_package(
    made: Package, name: str, tracking_uri: str, s3: S3Client, tmp_path: Path
) -> None:
    registered = register(made, name, tracking_uri, s3, origin=ORIGIN, alias="champion")
    assert (registered.version, registered.digest, registered.created) == ("1", made.digest, True)
    location = resolve(f"models:/{name}@champion", tracking_uri)
    assert (location.version, location.uri, location.digest) == ("1", registered.uri, made.digest)
    place = ObjectRef.from_uri(location.uri)
    listed = s3.list_objects_v2(Bucket=place.bucket, Prefix=place.key)["Contents"]
    assert {entry["Key"].removeprefix(f"{place.key}/") for entry in listed} == {"model.json", WEIGHTS, MLMODEL}
    fetched = fetch(location.uri, location.digest, tmp_path / "cache", s3)
    for file in ("model.json", WEIGHTS):
        assert (fetched.folder / file).read_bytes() == (made.folder / file).read_bytes()


def test_run_and_tags_say_what_it_is_and_where_it_comes_from(
    made: Package, name: str, tracking_uri: str, s3: S3Client, capsys: pytest.CaptureFixture[str]
) -> None:
    register(made, name, tracking_uri, s3, origin=ORIGIN)
    assert capsys.readouterr().out == ""
    (version,) = list_versions(tracking_uri, name)
    assert (version.digest, version.task, version.architecture) == (
        made.digest,
        "classification",
        "torchvision:resnet18",
    )
    assert (version.held_out_accuracy, version.parent) == (0.75, "1")
    assert (version.data_digest, version.code_commit) == (ORIGIN.data_digest, code_commit(Path.cwd()))
    assert version.run_id is not None
    run = get(tracking_uri, "runs/get", {"run_id": version.run_id})["run"]
    assert run["info"]["status"] == "FINISHED"
    assert ORIGIN.evaluation is not None
    assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]} == ORIGIN.evaluation.metrics
    parameters = {parameter["key"]: parameter["value"] for parameter in run["data"]["params"]}
    assert parameters["recipe"] == "digits/cnn"
    assert parameters["input"] == "8x8 stretch"
    assert json.loads(parameters["preset"])["height"] == 8
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["mlflow.source.git.commit"] == version.code_commit
    assert tags["whimbrel.held_out_digest"] == ORIGIN.evaluation.held_out_digest
    artifacts = get(tracking_uri, "artifacts/list", {"run_id": version.run_id, "path": "evaluation"})["files"]
    assert {Path(each["path"]).name for each in artifacts} == {
        "evaluation.json",
        "confusion_matrix.png",
        "mistakes.png",
        "right.png",
    }


def test_a_version_that_is_there_is_evaluated_again(made: Package, name: str, tracking_uri: str, s3: S3Client) -> None:
    register(made, name, tracking_uri, s3)
    assert list_versions(tracking_uri, name)[0].held_out_accuracy is None
    for accuracy, right in ((0.5, (True, False)), (1.0, (True, True))):
        assert not register(made, name, tracking_uri, s3, origin=Origin(evaluated(*right))).created
        (version,) = list_versions(tracking_uri, name)
        assert version.held_out_accuracy == accuracy
        place = ObjectRef.from_uri(run_artifacts(tracking_uri, version.run_id or ""))
        content = s3.get_object(Bucket=place.bucket, Key=f"{place.key}/evaluation/evaluation.json")["Body"].read()
        assert json.loads(content)["metrics"]["held_out_accuracy"] == accuracy


def run_artifacts(tracking_uri: str, run_id: str) -> str:
    return str(get(tracking_uri, "runs/get", {"run_id": run_id})["run"]["info"]["artifact_uri"])


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("classification", ["indices", "scores", "names"]),
        ("pose", ["boxes", "labels", "scores", "counts", "names", "keypoints"]),
        ("acme.tags", None),
    ],
)
def test_mlflow_reads_the_signature(
    name: str, tracking_uri: str, s3: S3Client, tmp_path: Path, *, task: str, outputs: list[str] | None
) -> None:
    from mlflow.models import Model

    made = package(tmp_path / task, task=task, keypoints=["beak", "tail"])
    place = ObjectRef.from_uri(register(made, name, tracking_uri, s3).uri)
    mlmodel = s3.get_object(Bucket=place.bucket, Key=f"{place.key}/{MLMODEL}")["Body"].read()
    signature = Model.from_dict(yaml.safe_load(mlmodel)).signature
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [("images", (-1, 8, 8, 3))]
    assert (signature.outputs.input_names() if signature.outputs else None) == outputs


def test_a_package_is_registered_once(made: Package, name: str, tracking_uri: str, s3: S3Client) -> None:
    first = register(made, name, tracking_uri, s3)
    again = register(made, name, tracking_uri, s3, alias="champion")
    assert (again.version, again.uri, again.created) == (first.version, first.uri, False)
    assert [version.aliases for version in list_versions(tracking_uri, name)] == [("champion",)]


def test_the_alias_comes_after_what_was_measured_is_attested(
    made: Package, name: str, tracking_uri: str, s3: S3Client
) -> None:
    """Whoever sees the alias sees what was measured; a measurement that fails leaves the alias where it was."""
    measured = Agreement(hardware_class="cpu-x", torch="2", dtype="bfloat16", images=200, agreeing=200)
    register(made, name, tracking_uri, s3)

    def no_alias_yet(package: Package) -> Agreement:
        assert package.digest == made.digest
        assert [version.aliases for version in list_versions(tracking_uri, name)] == [()]
        return measured

    def fails(_: Package) -> Agreement:
        raise Unavailable("no such device")

    with pytest.raises(Unavailable):
        register(made, name, tracking_uri, s3, measure=fails, alias="champion")
    assert list_aliases(tracking_uri, name) == {}
    register(made, name, tracking_uri, s3, measure=no_alias_yet, alias="champion")
    assert resolve(f"models:/{name}@champion", tracking_uri).attestations.agreements == (measured,)
    register(made, name, tracking_uri, s3, measure=lambda _: None, alias="challenger")
    assert list_aliases(tracking_uri, name) == {"champion": "1", "challenger": "1"}


def test_an_alias_moves_to_the_version_that_it_is_given(
    made: Package, name: str, tracking_uri: str, s3: S3Client, tmp_path: Path
) -> None:
    other = package(tmp_path / "other", b"other weights")
    register(made, name, tracking_uri, s3, alias="champion")
    assert register(other, name, tracking_uri, s3, alias="champion").version == "2"
    assert resolve(f"models:/{name}@champion", tracking_uri).digest == other.digest
    assert resolve(f"models:/{name}/1", tracking_uri).digest == made.digest
    set_alias(tracking_uri, name, "champion", "1")
    assert resolve(f"models:/{name}@champion", tracking_uri).digest == made.digest
    version, location = show_version(tracking_uri, name, "champion")
    assert (version.version, location.version, version.aliases) == ("1", "1", ("champion",))
    assert [version.version for version in list_versions(tracking_uri, name)] == ["2", "1"]
    assert name in list_models(tracking_uri)


def test_what_is_not_there_is_named(made: Package, name: str, tracking_uri: str, s3: S3Client) -> None:
    with pytest.raises(NotFound, match=name):
        list_versions(tracking_uri, name)
    register(made, name, tracking_uri, s3, alias="champion")
    for uri in (f"models:/{name}@challenger", f"models:/{name}/7", "models:/nobody@champion"):
        with pytest.raises(NotFound, match="whimbrel model ls"):
            resolve(uri, tracking_uri)
    with pytest.raises(NotFound, match="aliases champion"):
        show_version(tracking_uri, name, "challenger")
    with pytest.raises(NotFound):
        set_alias(tracking_uri, name, "champion", "7")
    with pytest.raises(InputRefused, match="latest"):
        set_alias(tracking_uri, name, "latest", "1")


def test_a_digest_changed_in_the_registry_does_not_load(
    made: Package, name: str, tracking_uri: str, s3: S3Client, tmp_path: Path
) -> None:
    register(made, name, tracking_uri, s3)
    tag_version(tracking_uri, name, "1", "whimbrel.digest", "sha256:" + "0" * 64)
    location = resolve(f"models:/{name}/1", tracking_uri)
    with pytest.raises(PackageRefused, match="expected the model package sha256:0000"):
        fetch(location.uri, location.digest, tmp_path / "cache", s3)
    tag_version(tracking_uri, name, "1", "whimbrel.digest", "unknown")
    with pytest.raises(PackageRefused, match="seen unknown"):
        resolve(f"models:/{name}/1", tracking_uri)


def test_a_package_that_is_changed_or_unsafe_is_not_registered(
    made: Package, name: str, tracking_uri: str, s3: S3Client, tmp_path: Path
) -> None:
    (made.folder / WEIGHTS).write_bytes(b"WEIGHTS")
    with pytest.raises(PackageRefused, match="expected sha256"):
        register(made, name, tracking_uri, s3)
    folder = tmp_path / "unsafe"
    folder.mkdir()
    (folder / EXPORTED).write_bytes(b"a pickle")
    fields = made.manifest.model_dump(mode="json", exclude={"files", "schema_"}, exclude_none=True)
    unsafe = write_manifest(folder, fields | {"architecture": "pt2"}, [EXPORTED])
    with pytest.raises(PackageRefused, match="exported without pickles"):
        register(unsafe, name, tracking_uri, s3)
    assert name not in list_models(tracking_uri)
