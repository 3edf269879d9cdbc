"""One transformer before several models: each by its own path, whatever the protocol, and its results apart."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from testbed.images import object_event, png
from testbed.predictors import running_predictor
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer
from whimbrel.core import cloudevent
from whimbrel.core.cloudevent import Event
from whimbrel.core.redelivery import DELIVERIES
from whimbrel.core.result_store import ResultStore, Written
from whimbrel.core.results import Result, parse_result

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RESULTS = f"several-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def transformer(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transformer]:
    """Before `digits` and `letters` of one predictor, and `shapes` of another, each with a preset of its own."""
    store.s3().create_bucket(Bucket=RESULTS)
    folder = tmp_path_factory.mktemp("several")
    with (
        running_predictor(folder / "one", "--model", "letters=null:26,16x16,letter") as one,
        running_predictor(folder / "other", "--model", "shapes=null:3,shape") as other,
    ):
        hosts = [predictor.url.removeprefix("http://") for predictor in (one, other)]
        more = ("--model", "letters", "--model", f"shapes={hosts[1]}", "--results-bucket", RESULTS)
        with running_transformer(folder / "transformer", store, hosts[0], *more) as running:
            yield running


def put(s3: S3Client, bucket: str) -> Event:
    etag = s3.put_object(Bucket=bucket, Key="a.png", Body=png(7))["ETag"].strip('"')
    return object_event(bucket, "a.png", etag=etag, size=len(png(7)))


def asked(transformer: Transformer, path: str, event: Event) -> tuple[Event, Result]:
    headers, body = cloudevent.binary(event)
    response = httpx.post(transformer.url + path, headers=headers, content=body, timeout=30)
    assert response.status_code == 200, response.text
    (reply,) = cloudevent.parse(response.headers, response.content)
    return reply, parse_result(reply.data or b"")


def test_an_event_goes_to_the_model_of_its_path(transformer: Transformer, s3: S3Client, bucket: str) -> None:
    event = put(s3, bucket)
    paths = ("/events", "/events/digits", "/events/letters", "/events/shapes", "/v1/models/letters:predict")
    replies = [asked(transformer, path, event) for path in paths]

    labels = [result.predictions[0].label for _, result in replies]
    assert labels == ["class-7", "class-7", "letter-7", "shape-1", "letter-7"]
    assert [reply.source.rpartition("/")[2] for reply, _ in replies] == [result.model.name for _, result in replies]
    assert len({(reply.source, reply.id) for reply, _ in replies}) == 3


def test_results_of_several_models_about_one_object_stand_side_by_side(
    transformer: Transformer, s3: S3Client, bucket: str
) -> None:
    event, results = put(s3, bucket), ResultStore(s3, RESULTS)
    answers = [asked(transformer, f"/events/{name}", event)[1] for name in ("digits", "letters")]

    assert [results.write(answer) for answer in answers] == [Written.NEW, Written.NEW]
    recorded = [each for each in results.recorded(answers[0].object.ref) if isinstance(each, Result)]
    assert {each.model.name for each in recorded} == {"digits", "letters"}


def test_a_redelivered_event_is_answered_from_its_own_models_result(
    transformer: Transformer, s3: S3Client, bucket: str
) -> None:
    event = put(s3, bucket)
    _, first = asked(transformer, "/events/digits", event)
    kept = first.model_copy(update={"timing_ms": {"all": 4711.0}})
    ResultStore(s3, RESULTS).write(kept)
    again = event.with_extensions({DELIVERIES: "2"})

    assert asked(transformer, "/events/digits", again)[1].timing_ms == {"all": 4711.0}
    assert asked(transformer, "/events/letters", again)[1].predictions[0].label == "letter-7"


def test_requests_go_to_the_model_of_their_path(transformer: Transformer) -> None:
    def best(name: str) -> str:
        url = f"{transformer.url}/v1/models/{name}:predict"
        answer = httpx.post(url, content=png(7), headers={"content-type": "image/png"}, timeout=30)
        return str(answer.json()["predictions"][0][0]["label"])

    assert [best(name) for name in ("digits", "letters", "shapes")] == ["class-7", "letter-7", "shape-1"]
    assert sorted(httpx.get(f"{transformer.url}/v2/models", timeout=30).json()["models"]) == [
        "digits",
        "letters",
        "shapes",
    ]


@pytest.mark.parametrize("path", ["/events/birds", "/v1/models/birds:predict"])
def test_a_model_that_is_not_here_may_come(transformer: Transformer, path: str) -> None:
    headers, body = cloudevent.binary(object_event("photos", "a.png"))
    response = httpx.post(transformer.url + path, headers=headers, content=body, timeout=30)

    assert (response.status_code, response.json()["reason"]) == (404, "NotFound")
    assert "digits, letters, shapes" in response.json()["error"]
