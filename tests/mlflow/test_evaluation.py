"""An evaluation counts what it is told, keeps the surest mistakes, draws them, and judges as the predictor answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from testbed.images import png
from testbed.stores import Store
from whimbrel.cli.app import app
from whimbrel.cli.connection import Connection
from whimbrel.cli.held_out import evaluate, labelled_pictures
from whimbrel.core.errors import InputRefused
from whimbrel.mlflow.evaluation import SHOWN_MISTAKES, Answered, Evaluation, Tally
from whimbrel.mlflow.evaluation_pictures import MAX_LABELS, confusion_png, sheet_png
from whimbrel.mlflow.recipes.digits import TrainedPackage, held_out, train_digits
from whimbrel.mlflow.recipes.digits_data import LABELS
from whimbrel.mlflow.register import evaluation_files
from whimbrel.mlflow.registry_view import list_versions
from whimbrel.mlflow.rollout.known_objects import KnownObject, dump_known_objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SHADE = np.full((6, 4, 3), 90, np.uint8)
BIRDS = ("gull", "tern", "black-tailed godwit, Limosa limosa")


def answered(truth: int, answer: int, score: float = 0.5, name: str = "picture") -> Answered:
    return Answered(name, name.encode(), truth, (answer, (answer + 1) % 3), (score, 1 - score), SHADE)


def evaluation(*answers: Answered, labels: tuple[str, ...] = BIRDS) -> Evaluation:
    tally = Tally(labels)
    for each in answers:
        tally.add(each)
    return tally.evaluation()


def test_figures_are_those_of_the_counts() -> None:
    found = evaluation(answered(0, 0), answered(0, 0), answered(0, 1), answered(1, 1), answered(1, 0))
    assert found.metrics == pytest.approx(
        {
            "held_out_accuracy": 3 / 5,
            "held_out_images": 5.0,
            "held_out_top_3_accuracy": 4 / 5,  # of two answers each, the fifth's truth is not among them
            "held_out_recall": (2 / 3 + 1 / 2) / 2,
            "held_out_precision": (2 / 3 + 1 / 2) / 2,
            "recall/gull": 2 / 3,
            "recall/tern": 1 / 2,
            "precision/gull": 2 / 3,
            "precision/tern": 1 / 2,
        }
    )
    document = json.loads(json.dumps(found.document))
    assert document["confusion"] == {"gull": {"gull": 2, "tern": 1}, "tern": {"gull": 1, "tern": 1}}
    assert document["labels"]["tern"] == {"pictures": 2, "recall": 0.5, "precision": 0.5}


def test_names_of_metrics_are_taken_by_the_registry_and_stay_apart() -> None:
    names = evaluation(answered(0, 0), answered(1, 1), answered(2, 2), labels=("a,b", "a;b", "c")).metrics
    assert {"recall/a_b", "recall/a_b 1", "recall/c"} <= names.keys()
    many = tuple(map(str, range(51)))
    assert not any("/" in name for name in evaluation(answered(0, 0), labels=many).metrics)


def test_the_surest_mistakes_are_kept_and_one_right_picture_of_each_label() -> None:
    wrong = [answered(0, 1, score=number / 100, name=f"{number}") for number in range(40)]
    found = evaluation(*wrong, answered(1, 1, name="a"), answered(1, 1, name="b"), answered(0, 0, name="c"))
    assert [each.name for each in found.mistakes] == [str(number) for number in range(39, 39 - SHOWN_MISTAKES, -1)]
    assert [each.name for each in found.right] == ["c", "a"]


def test_the_digest_tells_the_pictures_and_their_truth_in_any_order() -> None:
    one, other = answered(0, 0, name="a"), answered(1, 0, name="b")
    assert evaluation(one, other).held_out_digest == evaluation(other, one).held_out_digest
    assert evaluation(one, other).held_out_digest != evaluation(one, answered(2, 0, name="b")).held_out_digest


def test_what_a_person_sees_is_pictures_of_bounded_size() -> None:
    found = evaluation(*(answered(0, 1, name=f"a/very/long/name/{number}.png") for number in range(30)))
    files = evaluation_files(found)
    assert files.keys() == {"evaluation.json", "confusion_matrix.png", "mistakes.png"}  # none was right
    for name in ("confusion_matrix.png", "mistakes.png"):
        with Image.open(io.BytesIO(files[name])) as image:
            assert image.width <= 1000 and image.height <= 1000
    crowd = evaluation(answered(0, 0), labels=tuple(map(str, range(MAX_LABELS))))
    shades = confusion_png(crowd)
    assert shades is not None and len(shades) < 100_000
    assert confusion_png(evaluation(answered(0, 0), labels=(*crowd.labels, "one more"))) is None
    assert sheet_png(found, ()) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedPackage:
    return train_digits("linear", tmp_path_factory.mktemp("trained") / "package")


@pytest.mark.torch
def test_pictures_in_folders_are_judged_as_the_recipe_judges_them(trained: TrainedPackage, tmp_path: Path) -> None:
    """The recipe normalises by itself; here the transformer decodes and the predictor's network answers."""
    for picture in held_out():
        folder = tmp_path / picture.name
        folder.mkdir(exist_ok=True)
        (folder / f"{picture.index:04d}.png").write_bytes(picture.png)
    (tmp_path / ".hidden").mkdir()
    found = evaluate(trained.package, labelled_pictures(str(tmp_path), Connection({})))
    assert found.labels == LABELS
    assert found.confusion == trained.evaluation.confusion
    assert [each.name.partition("/")[2] for each in found.mistakes] == [
        f"{each.name}.png" for each in trained.evaluation.mistakes
    ]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("label", "content", "message"),
    [
        ("nought", png(0), r"nought/1\.png: expected a label of the package"),
        ("one", b"no picture", r"one/1\.png: expected"),
    ],
)
def test_a_picture_that_cannot_be_judged_is_named(
    trained: TrainedPackage, tmp_path: Path, label: str, content: bytes, message: str
) -> None:
    (tmp_path / label).mkdir()
    (tmp_path / label / "1.png").write_bytes(content)
    with pytest.raises(InputRefused, match=message):
        evaluate(trained.package, labelled_pictures(str(tmp_path), Connection({})))


@pytest.mark.torch
def test_a_package_is_registered_and_evaluated_by_one_command(
    trained: TrainedPackage, store: Store, tracking_uri: str, s3: S3Client, bucket: str
) -> None:
    """On labelled objects in the store; the version follows the champion that was there."""
    known = []
    for picture in held_out()[:40]:
        s3.put_object(Bucket=bucket, Key=f"{picture.index}.png", Body=picture.png)
        known.append(KnownObject(uri=f"s3://{bucket}/{picture.index}.png", label=picture.name))
    s3.put_object(Bucket=bucket, Key="known.jsonl", Body=dump_known_objects(known))
    settings = {**store.settings_environment, "WHIMBREL_MLFLOW_TRACKING_URI": tracking_uri}
    pictures = ("--held-out", f"s3://{bucket}/known.jsonl")
    given = ("model", "register", str(trained.package.folder), "--name", bucket, *pictures, "--alias", "champion")
    done = CliRunner(env=settings).invoke(app, given)
    assert "on 40 held-out pictures" in done.stdout, done.output or done.exception
    (version,) = list_versions(tracking_uri, bucket)
    assert (version.digest, version.aliases, version.parent) == (trained.package.digest, ("champion",), None)
    assert version.held_out_accuracy is not None and version.held_out_accuracy > 0.8
    refused = CliRunner(env=settings).invoke(app, ("model", "import", str(trained.package.folder), "--name", bucket))
    assert "whimbrel model register" in str(refused.exception)


def test_labelled_pictures_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    connection = Connection({})
    (tmp_path / "list.jsonl").write_text('{"uri": "s3://photos/1.png"}\n')
    for where, message in (
        (tmp_path, "expected 1 to 100000 labelled pictures in"),
        (tmp_path / "none", "No such file"),
        (tmp_path / "list.jsonl", "expected a label for each picture"),
    ):
        with pytest.raises(InputRefused, match=message):
            labelled_pictures(str(where), connection)
