"""Annotated pictures, COCO JSON, zips of both: what is drawn, where it goes, what never happens to what is there."""

from __future__ import annotations

import io
import json
import re
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from testbed.images import png
from testbed.processes import Running, answers, running
from testbed.stores import Store
from whimbrel.core.cloudevent import Event, binary
from whimbrel.core.errors import SettingsError
from whimbrel.core.results import (
    GONE_TYPE,
    PREDICTION_TYPE,
    Prediction,
    Result,
    ResultEvent,
    ResultModel,
    ResultObject,
    dump,
)
from whimbrel.core.settings import load
from whimbrel.transformers.decode import Limits, open_image
from whimbrel.transformers.outputs.coco import coco
from whimbrel.transformers.outputs.drawing import draw
from whimbrel.transformers.outputs.files import files
from whimbrel.transformers.outputs.settings import OutputsSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GREY = np.full((120, 200, 3), 128, np.uint8)
BIRD = Prediction(label="bird", index=3, score=0.9, box=(20, 30, 100, 60), keypoints=((50, 50, 0.9), (60, 60, 0.2)))
BOAT = Prediction(label="boat", index=8, score=0.4, box=(150, 90, 500, 500))


def result_of(key: str = "a.png", *predictions: Prediction, bucket: str = "photos", minutes: int = 0) -> Result:
    return Result(
        object=ResultObject(bucket=bucket, key=key, etag="e"),
        event=ResultEvent(id=f"é{minutes}", source="s", time=NOON + timedelta(minutes=minutes)),
        model=ResultModel(name="birds", version="1", digest="sha256:" + "4" * 64),
        predictions=predictions,
    )


class TestDrawing:
    def test_a_box_is_drawn_at_its_place_and_nothing_inside_it(self) -> None:
        drawn = np.asarray(draw(GREY, (BIRD.model_copy(update={"keypoints": None}),)))
        assert (drawn[89:91, 40:110] != 128).any()
        assert (drawn[60:85, 25:115] == 128).all()
        assert (drawn[:28] == 128).all() and (drawn[:, 125:] == 128).all()

    def test_a_keypoint_is_a_dot(self) -> None:
        drawn = np.asarray(draw(GREY, (BIRD,)))
        assert (drawn[50, 50] != 128).any() and (drawn[60, 60] != 128).any()
        assert (drawn[70, 50] == 128).all()

    @pytest.mark.parametrize(
        "box", [(-50, -50, 10, 10), (500, 500, 9, 9), (10, 10, 0, 0), (10, 10, -5, -5), (float("nan"), 1, 1, 1)]
    )
    def test_a_box_outside_or_of_no_size_leaves_a_caption(self, box: Any) -> None:
        outside = BIRD.model_copy(update={"box": box, "keypoints": None})
        drawn = np.asarray(draw(GREY, (outside,)))
        assert (drawn[:20, :60] != 128).any()
        assert (drawn[60:] == 128).all()

    def test_what_reaches_over_the_edge_is_cut_off(self) -> None:
        drawn = np.asarray(draw(GREY, (BOAT,)))
        assert drawn.shape == GREY.shape
        assert (drawn[100:, 199] != 128).any()

    def test_a_picture_of_one_pixel_and_a_label_of_any_characters_can_be_drawn(self) -> None:
        odd = Prediction(label="鳥\n\x00" * 100, index=-1, score=1e-9)
        assert draw(np.zeros((1, 1, 3), np.uint8), (odd,)).size == (1, 1)
        assert draw(GREY, ()).size == (200, 120)


def test_coco_names_image_boxes_and_labels() -> None:
    plain = Prediction(label="sea", index=1, score=0.5)
    document = json.loads(coco(result_of("ü/a.png", BIRD, BOAT, plain), 200, 120))
    assert document["images"] == [{"id": 1, "file_name": "ü/a.png", "width": 200, "height": 120}]
    assert document["categories"] == [{"id": 3, "name": "bird"}, {"id": 8, "name": "boat"}]
    bird, boat = document["annotations"]
    assert (bird["bbox"], bird["area"], bird["category_id"], bird["score"]) == ([20, 30, 100, 60], 6000, 3, 0.9)
    assert (bird["keypoints"], bird["num_keypoints"]) == ([50, 50, 2, 60, 60, 1], 2)
    assert (boat["id"], boat["image_id"], boat["iscrowd"], "keypoints" in boat) == (2, 1, 0, False)


def test_the_same_result_makes_the_same_bytes() -> None:
    settings = OutputsSettings(outputs=("image", "coco", "zip"), outputs_bucket="out")
    made = [list(files(GREY, result_of("a.png", BIRD), settings)) for _ in range(2)]
    assert made[0] == made[1]
    assert [(kind, content_type) for kind, _, content_type in made[0]] == [
        ("image", "image/jpeg"),
        ("coco", "application/json"),
        ("zip", "application/zip"),
    ]


@pytest.mark.parametrize(("mode", "progressive"), [("RGB", True), ("CMYK", False)])
def test_a_picture_of_the_most_pixels_can_be_drawn_on(mode: str, progressive: bool) -> None:
    settings = OutputsSettings(outputs_bucket="out")
    limits = Limits(settings.image_formats, settings.image_max_bytes, settings.image_max_pixels, settings.background)
    buffer = io.BytesIO()
    Image.new(mode, (10_000, 5_000)).save(buffer, "JPEG", progressive=progressive)
    assert open_image(buffer.getvalue(), None, limits).memory <= settings.decode_budget


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["--outputs", "image,video"], "expected one or more of image, coco, zip"),
        (["--outputs", ""], "expected one or more of image, coco, zip"),
        (["--outputs-key", "{name}.png"], r"expected no other places than .*, seen {name}"),
        (["--outputs-key", "all.png"], r"expected {key} in it"),
        (["--outputs", "image,zip", "--outputs-key", "{key}"], r"expected {extension} in it"),
        (["--outputs-image-format", "gif"], "OUTPUTS_IMAGE_FORMAT"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], refusal: str) -> None:
    with pytest.raises(SettingsError, match=refusal):
        load(OutputsSettings, ["--outputs-bucket", "out", *arguments], program="test")


@dataclass(frozen=True)
class Sink:
    process: Running
    url: str
    bucket: str

    def post(self, result: Result, type_: str = PREDICTION_TYPE) -> httpx.Response:
        event = Event(id="1", source="s", type=type_, subject=result.object.key, data=dump(result))
        headers, body = binary(event)
        return httpx.post(self.url, headers=headers, content=body, timeout=30)

    def count(self, outcome: str) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf'whimbrel_sink_records_total{{outcome="{outcome}",sink="outputs"}} (\S+)', text)
        return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def sink(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    bucket, log = f"outputs-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("outputs") / "log"
    store.s3().create_bucket(Bucket=bucket)
    options = ("--outputs", "image,coco,zip", "--outputs-bucket", bucket, "--outputs-image-format", "png")
    settings = store.settings_environment
    with running("whimbrel.transformers", "outputs", *options, "--http-port", "0", log=log, **settings) as process:
        process.wait_until(lambda: re.search(r'"http_port": (\d+)', process.output()), "the port")
        found = re.search(r'"http_port": (\d+)', process.output())
        assert found
        url = f"http://127.0.0.1:{found[1]}"
        process.wait_until(lambda: answers(f"{url}/healthz"), "the sink")
        yield Sink(process, url, bucket)


def put(s3: S3Client, bucket: str, key: str, content: bytes, *predictions: Prediction, minutes: int = 0) -> Result:
    etag = s3.put_object(Bucket=bucket, Key=key, Body=content)["ETag"].strip('"')
    made = result_of(key, *predictions, bucket=bucket, minutes=minutes)
    return made.model_copy(update={"object": ResultObject(bucket=bucket, key=key, etag=etag, size=len(content))})


def grey_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG")
    return buffer.getvalue()


def read(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_all_three_are_written_once(sink: Sink, s3: S3Client, bucket: str) -> None:
    result = put(s3, bucket, "in/ä 1.png", grey_png(), BIRD)
    before = sink.count("duplicate")
    assert [sink.post(result).status_code for _ in range(2)] == [202, 202]
    assert sink.count("duplicate") == before + 1
    base = f"{bucket}/in/%C3%A4 1.png"
    drawn = np.asarray(Image.open(io.BytesIO(read(s3, sink.bucket, f"{base}.png"))))
    assert drawn.shape == GREY.shape
    assert (drawn[89:91, 40:110] != 128).any()
    boxes = read(s3, sink.bucket, f"{base}.coco.json")
    assert json.loads(boxes)["annotations"][0]["bbox"] == [20, 30, 100, 60]
    with zipfile.ZipFile(io.BytesIO(read(s3, sink.bucket, f"{base}.zip"))) as archive:
        assert archive.namelist() == ["image.png", "coco.json"]
        assert archive.read("coco.json") == boxes


def test_an_older_result_never_replaces_the_outputs_of_a_newer_one(sink: Sink, s3: S3Client, bucket: str) -> None:
    newer = put(s3, bucket, "a.png", grey_png(), BOAT, minutes=5)
    older = newer.model_copy(update={"event": result_of(minutes=1).event, "predictions": (BIRD,)})
    newest = newer.model_copy(update={"event": result_of(minutes=9).event, "predictions": (BIRD,)})

    def label_after(result: Result) -> str:
        assert sink.post(result).status_code == 202
        return str(json.loads(read(s3, sink.bucket, f"{bucket}/a.png.coco.json"))["categories"][0]["name"])

    assert [label_after(result) for result in (newer, older, newest)] == ["boat", "boat", "bird"]


def test_an_object_that_is_gone_meanwhile_is_no_failure(sink: Sink, s3: S3Client, bucket: str) -> None:
    overwritten = put(s3, bucket, "a.png", grey_png(), BIRD)
    put(s3, bucket, "a.png", png(1))
    deleted = put(s3, bucket, "b.png", grey_png(), BIRD)
    s3.delete_object(Bucket=bucket, Key="b.png")
    assert [sink.post(each).status_code for each in (overwritten, deleted)] == [202, 202]
    assert sink.post(deleted, GONE_TYPE).status_code == 202
    assert "Contents" not in s3.list_objects_v2(Bucket=sink.bucket, Prefix=bucket)


def test_what_is_no_picture_or_no_prediction_is_refused(sink: Sink, s3: S3Client, bucket: str) -> None:
    assert sink.post(put(s3, bucket, "a.png", b"no picture", BIRD)).status_code == 415
    assert sink.post(put(s3, bucket, "b.png", grey_png()[:90], BIRD)).status_code == 422
    assert sink.post(result_of(), "com.example.other").status_code == 400
    assert httpx.post(sink.url, content=b"x" * (5 << 20), timeout=30).status_code == 413


def test_another_object_at_the_place_of_an_output_stays(sink: Sink, s3: S3Client, bucket: str) -> None:
    result = put(s3, bucket, "a.png", grey_png(), BIRD)
    s3.put_object(Bucket=sink.bucket, Key=f"{bucket}/a.png.zip", Body=b"mine")
    answer = sink.post(result)
    assert answer.status_code == 400
    assert "seen another object, which stays" in answer.json()["error"]
    assert read(s3, sink.bucket, f"{bucket}/a.png.zip") == b"mine"


def test_an_output_is_no_input(sink: Sink, s3: S3Client, bucket: str) -> None:
    result = put(s3, sink.bucket, f"{sink.bucket}/a.png", grey_png(), BIRD)
    answer = sink.post(result)
    assert (answer.status_code, answer.json()["reason"]) == (400, "InputRefused")
    assert "expected the result of an object that is no output" in answer.json()["error"]


def test_a_bucket_that_announces_the_outputs_ends_the_start(store: Store, bucket: str, tmp_path: Path) -> None:
    sqs: Any = store.sqs()
    url = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wanted: Any = {"QueueConfigurations": [{"Id": "all", "QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    store.s3().put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)
    options = ("outputs", "--outputs-bucket", bucket, "--http-port", "0")
    settings = store.settings_environment
    with running("whimbrel.transformers", *options, log=tmp_path / "log", **settings) as process:
        assert process.process.wait(60) == 2
        assert "which its notification 'all' announces" in process.output()
