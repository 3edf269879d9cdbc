"""`POST /events` of a running transformer, with a real store and a real predictor: replies, refusals, retries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.images import object_event, png
from testbed.processes import wait_for
from testbed.transformers import Transformer
from whimbrel.core import cloudevent
from whimbrel.core.cloudevent import Event
from whimbrel.core.results import GONE_TYPE, PREDICTION_TYPE, parse_gone, parse_result

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "Strand/größe 1+2.png"


def post(url: str, event: Event, *, mode: Any = cloudevent.binary) -> httpx.Response:
    headers, body = mode(event)
    return httpx.post(f"{url}/events", headers=headers, content=body, timeout=30)


def only_event(response: httpx.Response) -> Event:
    assert response.status_code == 200, response.text
    (event,) = cloudevent.parse(response.headers, response.content)
    return event


def put(s3: S3Client, bucket: str, body: bytes, key: str = KEY) -> Event:
    etag = s3.put_object(Bucket=bucket, Key=key, Body=body)["ETag"].strip('"')
    return object_event(bucket, key, etag=etag, size=len(body))


@pytest.mark.parametrize("mode", [cloudevent.binary, cloudevent.structured])
def test_an_object_becomes_a_result(transformer: Transformer, s3: S3Client, bucket: str, mode: Any) -> None:
    event = put(s3, bucket, png(7))
    reply = only_event(post(transformer.url, event, mode=mode))
    result = parse_result(reply.data or b"")
    assert (reply.type, reply.subject, reply.datacontenttype) == (PREDICTION_TYPE, KEY, "application/json")
    digest = result.model.digest.removeprefix("sha256:")
    assert reply.id == f"{event.id}/{digest[:16]}"
    assert [(p.label, p.index, p.score) for p in result.predictions[:2]] == [("class-7", 7, 0.5), ("class-8", 8, 0.25)]
    assert len(result.predictions) == 5
    assert (result.object.bucket, result.object.key, result.object.size) == (bucket, KEY, len(png(7)))
    assert (result.event.id, result.event.source) == (event.id, event.source)
    assert result.event.sequencer is not None
    assert (result.model.name, result.model.version) == ("digits", "null")
    assert set(result.timing_ms) == {"fetch", "decode", "predict", "answer", "all"}
    assert result.timing_ms["all"] >= max(result.timing_ms.values())


def test_the_answer_is_logged_in_one_line(transformer: Transformer, s3: S3Client, bucket: str) -> None:
    event = put(s3, bucket, png(3), "three.png")
    headers, body = cloudevent.binary(event)
    only_event(httpx.post(f"{transformer.url}/events", headers={**headers, "x-request-id": "walk-1"}, content=body))

    def logged() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in transformer.process.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event_id") == event.id]

    (line,) = wait_for(logged, "the line of the answer")
    assert line["message"] == "label: class-3, score: 0.500"
    assert (line["level"], line["component"]) == ("info", "transformer")
    assert (line["object"], line["request_id"]) == (f"s3://{bucket}/three.png", "walk-1")
    assert line["model_version"] == "null"
    assert set(line["timing_ms"]) == {"fetch", "decode", "predict", "answer", "all"}


def test_an_object_that_went_meanwhile_is_recorded_as_gone(transformer: Transformer, s3: S3Client, bucket: str) -> None:
    event = put(s3, bucket, png(7))
    s3.delete_object(Bucket=bucket, Key=KEY)
    reply = only_event(post(transformer.url, event))
    gone = parse_gone(reply.data or b"")
    assert (reply.type, reply.subject, reply.id) == (GONE_TYPE, KEY, f"{event.id}/gone")
    assert (gone.object.bucket, gone.object.key, gone.event.id) == (bucket, KEY, event.id)
    assert gone.reason.startswith("deleted since")


def test_an_object_that_was_overwritten_is_gone_and_the_new_one_is_answered(
    transformer: Transformer, s3: S3Client, bucket: str
) -> None:
    old, new = put(s3, bucket, png(1)), put(s3, bucket, png(2))
    assert only_event(post(transformer.url, old)).type == GONE_TYPE
    assert parse_result(only_event(post(transformer.url, new)).data or b"").predictions[0].label == "class-2"


@pytest.mark.parametrize("name", ["ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated", "ObjectTagging:Put"])
def test_other_object_events_are_accepted_without_an_answer(transformer: Transformer, name: str) -> None:
    response = post(transformer.url, object_event("photos", KEY, name=name))
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 415, "seen an empty file"),
        (b"a text that is named .png", 415, "seen text"),
        (png(1, side=300)[:300], 422, "truncated"),
        (png(1, side=3000), 422, "at most 1000000 pixels, seen 3000 x 3000"),
        (b"\x89PNG" * 30_000, 413, "at most 100000 bytes"),
    ],
)
def test_what_cannot_be_decoded_is_refused_for_good(
    strict_transformer: Transformer, s3: S3Client, bucket: str, *, body: bytes, status: int, reason: str
) -> None:
    response = post(strict_transformer.url, put(s3, bucket, body))
    assert response.status_code == status
    assert reason in response.json()["error"]
    assert set(response.json()) == {"error", "reason"}
    assert not cloudevent.is_cloudevent(response.headers)


def test_asks_over_grpc_by_setting(strict_transformer: Transformer, s3: S3Client, bucket: str) -> None:
    result = parse_result(only_event(post(strict_transformer.url, put(s3, bucket, png(9)))).data or b"")
    assert (result.predictions[0].label, result.model.version) == ("class-9", "null")


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ({}, b"", "expected a CloudEvent"),
        ({"content-type": "application/cloudevents+json"}, b"{", "expected JSON"),
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "dev.whimbrel.prediction.v1"},
            b"{}",
            "expected an event of type com.amazonaws.s3.",
        ),
        (
            {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "com.amazonaws.s3.ObjectCreated:Put"},
            b"{}",
            "of an event record",
        ),
    ],
)
def test_what_is_no_object_event_is_refused(
    transformer: Transformer, headers: dict[str, str], body: bytes, reason: str
) -> None:
    response = httpx.post(f"{transformer.url}/events", headers=headers, content=body)
    assert response.status_code == 400
    assert reason in response.json()["error"]


def test_an_event_of_more_than_a_mebibyte_is_refused(transformer: Transformer) -> None:
    response = httpx.post(f"{transformer.url}/events", content=b"x" * (1024 * 1024 + 1))
    assert (response.status_code, response.json()["reason"]) == (413, "PayloadTooLarge")


def test_a_missing_bucket_is_tried_again(transformer: Transformer) -> None:
    response = post(transformer.url, object_event("no-such-bucket-here", KEY))
    assert (response.status_code, response.json()["reason"]) == (404, "NotFound")


def test_a_batch_is_answered_as_a_whole(transformer: Transformer, s3: S3Client, bucket: str) -> None:
    url = f"{transformer.url}/events"
    good = [put(s3, bucket, png(digit), f"{digit}.png") for digit in (4, 5)]
    removed = object_event(bucket, "6.png", name="ObjectRemoved:Delete")
    headers, body = cloudevent.batched([*good, removed])
    response = httpx.post(url, headers=headers, content=body)
    replies = cloudevent.parse(response.headers, response.content)
    assert [parse_result(reply.data or b"").predictions[0].label for reply in replies] == ["class-4", "class-5"]

    refused, missing = put(s3, bucket, b"text", "text.png"), object_event("no-such-bucket-here", KEY)
    headers, body = cloudevent.batched([*good, refused])
    assert httpx.post(url, headers=headers, content=body).status_code == 415
    headers, body = cloudevent.batched([refused, missing, *good])
    assert httpx.post(url, headers=headers, content=body).status_code == 404

    headers, body = cloudevent.batched([removed])
    assert httpx.post(url, headers=headers, content=body).status_code == 204
