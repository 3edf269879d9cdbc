"""An event that was answered before is answered from its result: there is no predictor here at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.images import object_event, png
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer
from whimbrel.core import cloudevent
from whimbrel.core.cloudevent import Event, json_event
from whimbrel.core.records import object_event as read_object_event
from whimbrel.core.redelivery import DELIVERIES, REPLAY, is_redelivered
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import (
    PREDICTION_TYPE,
    Prediction,
    Result,
    ResultEvent,
    ResultModel,
    ResultObject,
    parse_result,
)
from whimbrel.local.state import free_port
from whimbrel.transformers.known import _REMEMBERED, KnownAnswers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RESULTS = f"known-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def alone(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transformer]:
    """A transformer before nothing: each image that it asks about is a 503."""
    store.s3().create_bucket(Bucket=RESULTS)
    log = tmp_path_factory.mktemp("known") / "transformer.log"
    with running_transformer(log, store, f"127.0.0.1:{free_port()}", "--results-bucket", RESULTS) as running:
        yield running


def put(s3: S3Client, bucket: str) -> Event:
    etag = s3.put_object(Bucket=bucket, Key="a/ü.png", Body=png(7))["ETag"].strip('"')
    return object_event(bucket, "a/ü.png", etag=etag, size=len(png(7)))


def result_of(caused_by: Event, **changes: Any) -> Result:
    happened = read_object_event(caused_by)
    made = Result(
        object=ResultObject.of(happened.object),
        event=ResultEvent(id=caused_by.id, source=caused_by.source, time=happened.time),
        model=ResultModel(name="digits", version="1", digest="sha256:" + "5" * 64),
        predictions=(Prediction(label="seven", index=7, score=0.75),),
    )
    return made.model_copy(update=changes)


def post(transformer: Transformer, event: Event) -> httpx.Response:
    headers, body = cloudevent.binary(event)
    return httpx.post(f"{transformer.url}/events", headers=headers, content=body, timeout=30)


def answered(transformer: Transformer, event: Event) -> Result:
    response = post(transformer, event)
    assert response.status_code == 200, response.text
    (reply,) = cloudevent.parse(response.headers, response.content)
    assert (reply.type, reply.id) == (PREDICTION_TYPE, f"{event.id}/{'5' * 16}")
    return parse_result(reply.data or b"").model_copy(update={"recorded": None})


@pytest.mark.parametrize("extension", [DELIVERIES, REPLAY])
def test_an_event_that_says_it_comes_again_is_answered_from_its_result(
    alone: Transformer, s3: S3Client, bucket: str, extension: str
) -> None:
    event = put(s3, bucket)
    ResultStore(s3, RESULTS).write(result_of(event))
    s3.delete_object(Bucket=bucket, Key="a/ü.png")  # nor is the object read
    assert answered(alone, event.with_extensions({extension: "2"})) == result_of(event)


def test_an_event_that_was_here_before_is_looked_up_and_a_new_one_is_not(
    alone: Transformer, s3: S3Client, bucket: str
) -> None:
    event = put(s3, bucket)
    assert post(alone, event).status_code == 503
    ResultStore(s3, RESULTS).write(result_of(event))
    assert answered(alone, event) == result_of(event)
    metrics = httpx.get(f"{alone.url}/metrics").text
    assert 'whimbrel_transformer_images_total{outcome="known"}' in metrics


def test_the_result_of_another_event_about_the_same_bytes_is_none_of_this_one(
    alone: Transformer, s3: S3Client, bucket: str
) -> None:
    event = put(s3, bucket)
    other = result_of(event).event.model_copy(update={"id": "another"})
    ResultStore(s3, RESULTS).write(result_of(event, event=other))
    assert post(alone, event.with_extensions({DELIVERIES: "2"})).status_code == 503


def test_an_event_of_rgws_pull_mode_which_names_no_version_is_known_once_it_is_read(
    alone: Transformer, s3: S3Client, bucket: str
) -> None:
    named = put(s3, bucket)
    attributes = {"source": named.source, "type": named.type, "subject": named.subject, "time": named.time}
    info = {"attrs": {"mtime": "2026-01-01T00:00:00Z"}, "bucket": {"name": bucket}, "key": {"name": "a/ü.png"}}
    pulled = {"id": "1", "event": "OBJECT_CREATE", "timestamp": "2026-01-01T00:00:00Z", "info": info}
    event = json_event(id=uuid.uuid4().hex, data=pulled, **attributes)
    etag = s3.head_object(Bucket=bucket, Key="a/ü.png")["ETag"].strip('"')
    known = result_of(event, object=ResultObject(bucket=bucket, key="a/ü.png", etag=etag, size=len(png(7))))
    ResultStore(s3, RESULTS).write(known)
    assert answered(alone, event.with_extensions({DELIVERIES: "3"})) == known


def test_what_is_remembered_is_bounded(s3: S3Client) -> None:
    known = KnownAnswers(ResultStore(s3, RESULTS), "digits")
    events = [Event(id=str(number), source="s", type="t") for number in range(_REMEMBERED + 1)]
    assert not any(known.may_be_known(event) for event in events)
    assert not known.may_be_known(events[0]), "the oldest is forgotten"
    assert known.may_be_known(events[-1])
    assert len(known._seen) == _REMEMBERED
    known.close()


@pytest.mark.parametrize(
    ("extensions", "redelivered"),
    [
        ({}, False),
        ({DELIVERIES: "0"}, False),
        ({DELIVERIES: ""}, False),
        ({DELIVERIES: "2"}, True),
        ({REPLAY: "1"}, True),
    ],
)
def test_an_extension_says_that_it_comes_again(extensions: dict[str, str], redelivered: bool) -> None:
    assert is_redelivered(extensions) is redelivered
