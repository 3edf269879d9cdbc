"""A picture's objects, through transformer and predictor, in pixels of the picture: every protocol, events, outputs."""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from testbed.images import object_event
from testbed.predictors import Predictor, running_predictor, v2_outputs
from testbed.stores import Store
from testbed.transformers import Transformer, running_outputs, running_transformer
from whimbrel.core import cloudevent
from whimbrel.core.errors import Unavailable
from whimbrel.core.kserve_sdk import InferInput, InferRequest
from whimbrel.core.results import ResultModel, parse_result
from whimbrel.core.tensors import DETECTION
from whimbrel.transformers import replies
from whimbrel.transformers.answers import Answer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SIZE = (400, 300)
CAT, DOG = (40, 60, 80, 100), (220, 30, 120, 200)  # left, top, width, height: labels class-3 and class-4
PIXEL = 400 / 64  # of the picture in one of the input


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def predictor(logs: Path) -> Iterator[Predictor]:
    """Its preset pads to 64 x 64; it finds what is bright."""
    with running_predictor(logs / "predictor.log", uri="null:pose:10,64x64") as running:
        yield running


@pytest.fixture(scope="module", params=["v2", "grpc-v2"])
def transformer(
    request: pytest.FixtureRequest, store: Store, logs: Path, predictor: Predictor
) -> Iterator[Transformer]:
    protocol = request.param
    target = predictor.grpc_target if protocol == "grpc-v2" else predictor.url.removeprefix("http://")
    arguments = ("--predictor_protocol", protocol, "--score-threshold", "0.5")
    with running_transformer(logs / f"{protocol}.log", store, target, *arguments) as running:
        yield running


@dataclass(frozen=True)
class Sink:
    url: str
    bucket: str


@pytest.fixture(scope="module")
def sink(store: Store, logs: Path) -> Iterator[Sink]:
    bucket = f"drawn-{uuid.uuid4().hex[:8]}"
    store.s3().create_bucket(Bucket=bucket)
    options = ("--outputs", "image,coco", "--outputs-image-format", "png")
    with running_outputs(logs / "outputs.log", store, bucket, *options) as url:
        yield Sink(url, bucket)


def picture(*boxes: tuple[int, int, int, int], format_: str = "PNG", orientation: int = 1) -> bytes:
    """As orientation 6 stores it: turned by a quarter to the left."""
    image = Image.new("RGB", SIZE)
    for number, (left, top, width, height) in enumerate(boxes):
        image.paste((0, 203 + number, 0), (left, top, left + width, top + height))
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    stored = image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else image
    stored.save(target, format_, exif=exif)
    return target.getvalue()


def near(box: tuple[int, int, int, int]) -> Any:
    return pytest.approx(box, abs=PIXEL)


def test_v1_answers_boxes_and_keypoints_of_the_picture(transformer: Transformer) -> None:
    content = picture(CAT, DOG)
    response = httpx.post(
        f"{transformer.url}/v1/models/digits:predict",
        content=content,
        headers={"content-type": "image/png"},
        timeout=30,
    )
    ((cat, dog),) = response.json()["predictions"]
    assert (cat["label"], cat["box"], dog["label"], dog["box"]) == ("class-3", near(CAT), "class-4", near(DOG))
    assert (cat["score"], dog["score"]) == (pytest.approx(0.9), pytest.approx(0.81))
    points = [(40, 60, 1), (80, 110, 1), (120, 160, 1)]
    assert cat["keypoints"] == [pytest.approx(point, abs=PIXEL) for point in points]


def test_v2_answers_tensors_of_as_many_objects_as_there_are(transformer: Transformer) -> None:
    data = [base64.b64encode(each).decode() for each in (picture(CAT, DOG), picture(), picture(DOG))]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": data}
    response = httpx.post(f"{transformer.url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=30)
    outputs = v2_outputs(response.json())
    assert (outputs["counts"], outputs["labels"]) == ([2, 0, 1], [[3, 4], [-1, -1], [3, -1]])
    assert outputs["names"] == [["class-3", "class-4"], ["", ""], ["class-3", ""]]
    left, top, width, height = DOG
    assert outputs["boxes"][0][1] == pytest.approx([left, top, left + width, top + height], abs=PIXEL)
    assert outputs["boxes"][1] == [[0] * 4] * 2
    assert np.array(outputs["keypoints"]).shape == (3, 2, 3, 3)
    metadata = httpx.get(f"{transformer.url}/v2/models/digits", timeout=30).json()
    assert [output["name"] for output in metadata["outputs"]] == [*outputs]


def test_a_picture_without_an_object_is_answered(transformer: Transformer) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture()).decode()]}
    outputs = v2_outputs(
        httpx.post(f"{transformer.url}/v2/models/digits/infer", json={"inputs": [tensor]}, timeout=30).json()
    )
    assert (outputs["counts"], outputs["boxes"], outputs["names"]) == ([0], [[]], [[]])


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_an_object_of_the_bucket_is_drawn_where_it_is(
    transformer: Transformer, sink: Sink, s3: S3Client, bucket: str, format_: str
) -> None:
    """The picture lies on its side, as a phone stores it: boxes and drawing are of the upright one."""
    content = picture(CAT, DOG, format_=format_, orientation=6)
    etag = s3.put_object(Bucket=bucket, Key="pets", Body=content)["ETag"].strip('"')
    headers, body = cloudevent.binary(object_event(bucket, "pets", etag=etag, size=len(content)))
    reply = httpx.post(f"{transformer.url}/events", headers=headers, content=body, timeout=30)
    result = parse_result(reply.content)
    assert [(each.label, each.box) for each in result.predictions] == [("class-3", near(CAT)), ("class-4", near(DOG))]

    assert httpx.post(sink.url, headers=dict(reply.headers), content=reply.content, timeout=30).status_code == 202

    drawn = np.asarray(Image.open(io.BytesIO(_read(s3, sink.bucket, f"{bucket}/pets.png"))))
    assert drawn.shape == (SIZE[1], SIZE[0], 3)
    inside = drawn[150:200, 290:320]
    assert (inside[..., 1] > 190).all() and (inside[..., 0] < 20).all()  # the dog, nothing drawn on it
    edge = drawn[120, 220 - 8 : 220 + 8]
    assert (edge.max(axis=1) > 200).any() and (edge[..., 0] > 60).any() | (edge[..., 2] > 60).any()  # its box's line
    document = json.loads(_read(s3, sink.bucket, f"{bucket}/pets.coco.json"))
    assert [each["bbox"] for each in document["annotations"]] == [near(CAT), near(DOG)]
    assert [each["num_keypoints"] for each in document["annotations"]] == [3, 3]
    assert document["images"][0]["width"] == SIZE[0]


def test_versions_of_two_tasks_do_not_answer_one_request() -> None:
    """A split between them would; whoever sends the images singly gets an answer to each."""
    model = ResultModel(name="digits", version="1", digest="sha256:" + "0" * 64)
    request = InferRequest("digits", [InferInput("image", [2], "BYTES")])
    with pytest.raises(Unavailable, match="seen classification, detection; send its images singly"):
        replies.v2(request, [Answer((), model), Answer((), model, DETECTION)], "digits")


def _read(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
