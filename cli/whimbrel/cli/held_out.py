"""Evaluates a package on labelled pictures as they would be served: the transformer decodes, the predictor answers.

The pictures are a folder with one folder a label, or JSON lines of objects and labels as rollouts have them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from whimbrel.cli.connection import Connection
from whimbrel.core.errors import InputRefused, WhimbrelError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from whimbrel.core.package import Package
    from whimbrel.mlflow.evaluation import Evaluation, Tally
    from whimbrel.predictors.torch_network import TorchNetwork

MAX_PICTURES: Final = 100_000
MAX_BYTES: Final = 20 * 1024 * 1024
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Labelled:
    name: str
    label: str
    read: Callable[[], bytes]


def labelled_pictures(where: str, connection: Connection) -> list[Labelled]:
    """Of a folder, or of JSON lines in a file or at s3://. Raises InputRefused, and what a store may."""
    folder = Path(where)
    found = list(_of_folder(folder) if folder.is_dir() else _of_list(where, connection))
    if not 1 <= len(found) <= MAX_PICTURES:
        raise InputRefused(f"expected 1 to {MAX_PICTURES} labelled pictures in {where}, seen {len(found)}")
    return found


def evaluate(package: Package, pictures: Iterable[Labelled]) -> Evaluation:
    """In float32, so that the figures are the same on any hardware; one batch after the other, on the GPU if any.

    Raises InputRefused for a package of another task than classification, and for a picture that does not decode or
    has a label that the package does not know.
    """
    from whimbrel.mlflow.evaluation import Tally
    from whimbrel.predictors.precision import FLOAT32, Asked
    from whimbrel.predictors.torch_network import choose_device, load

    if package.manifest.task != "classification":
        raise InputRefused(f"expected a package for classification to evaluate, seen {package.manifest.task}")
    network, tally = load(package, choose_device("auto"), asked=Asked(FLOAT32)), Tally(package.manifest.labels)
    of_label = {label: index for index, label in enumerate(package.manifest.labels)}
    waiting = iter(pictures)
    while batch := list(itertools.islice(waiting, BATCH)):
        _add_batch(network, tally, of_label, batch)
    return tally.evaluation()


def _add_batch(network: TorchNetwork, tally: Tally, of_label: dict[str, int], batch: list[Labelled]) -> None:
    import numpy as np

    from whimbrel.core.tensors import INDICES, SCORES
    from whimbrel.mlflow.evaluation import Answered
    from whimbrel.transformers.decode import Limits, decode

    prepared = []
    for picture in batch:
        if picture.label not in of_label:
            known = ", ".join(itertools.islice(of_label, 10))
            raise InputRefused(f"{picture.name}: expected a label of the package ({known}), seen {picture.label!r}")
        content = picture.read()
        try:
            pixels = decode(content, network.description.preset, Limits(max_bytes=MAX_BYTES))
        except WhimbrelError as error:
            raise InputRefused(f"{picture.name}: {error}") from None
        prepared.append((picture, hashlib.sha256(content).digest(), pixels))
    answers = network.infer(np.stack([pixels for _, _, pixels in prepared]), tally.top_k)
    indices, scores = answers[INDICES].tolist(), answers[SCORES].tolist()
    for place, (picture, content_digest, pixels) in enumerate(prepared):
        truth = of_label[picture.label]
        tally.add(Answered(picture.name, content_digest, truth, indices[place], scores[place], pixels))


def _of_folder(folder: Path) -> Iterator[Labelled]:
    """FOLDER/LABEL/picture, in the order of the names; what is hidden is left out."""
    for label in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(path for path in label.iterdir() if path.is_file() and not path.name.startswith(".")):
            yield Labelled(f"{label.name}/{path.name}", label.name, _reader(path))


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)

    return read


def _of_list(where: str, connection: Connection) -> Iterator[Labelled]:
    from whimbrel.mlflow.rollout.known_objects import parse_known_objects, read_known_objects

    if where.startswith("s3://"):
        known = read_known_objects(connection.s3(), where)
    else:
        try:
            known = parse_known_objects(Path(where).read_bytes(), where)
        except OSError as error:
            raise InputRefused(f"expected labelled pictures in {where}: {error.strerror}") from None
    client = connection.s3()
    for each in known:
        if each.label is None:
            raise InputRefused(f"{where}: expected a label for each picture, seen none for {each.uri}")
        yield Labelled(each.uri, each.label, _fetcher(each.uri, client))


def _fetcher(uri: str, client: S3Client) -> Callable[[], bytes]:
    from botocore.exceptions import BotoCoreError, ClientError

    from whimbrel.core.references import ObjectRef
    from whimbrel.core.s3 import as_whimbrel_error

    place = ObjectRef.from_uri(uri)

    def read() -> bytes:
        try:
            return client.get_object(Bucket=place.bucket, Key=place.key)["Body"].read(MAX_BYTES + 1)
        except (BotoCoreError, ClientError) as error:
            raise as_whimbrel_error(error, f"read of {uri}") from None

    return read
