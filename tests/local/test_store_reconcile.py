"""After a restart the objects that nothing came of are announced, and only those."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from testbed.processes import wait_for
from testbed.stores import Store
from whimbrel.core.cloudevent import Event, json_event, structured
from whimbrel.core.errors import NotFound
from whimbrel.core.records import ObjectEvent, parse_notification, parse_record
from whimbrel.core.references import ObjectRef
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import (
    PREDICTION_TYPE,
    DeadLetter,
    DeadLetterError,
    Gone,
    Prediction,
    Result,
    ResultEvent,
    ResultModel,
    ResultObject,
    dead_letter_key,
    dump,
)
from whimbrel.local.store.reconcile import ReconcileReport, notification, reconcile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

NOW = datetime(2026, 11, 20, 13, 25, 1, 250_000, tzinfo=UTC)
EVENT = ResultEvent(id="1", source="s", time=NOW)
MODEL = ResultModel(name="digits", version="1", digest="sha256:" + "0" * 64)
KEYS = ["a.jpg", "a b+c.jpg", "grün/🐦.jpg", "x//y", "%2F.txt", "a.jpg/inside"]

Announced = Callable[[], list[ObjectEvent]]
NewBucket = Callable[[], str]


@pytest.fixture
def new_bucket(s3: S3Client) -> NewBucket:
    def make() -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        s3.create_bucket(Bucket=name)
        return name

    return make


@pytest.fixture
def place(store: Store, s3: S3Client, new_bucket: NewBucket) -> dict[str, Any]:
    """Three buckets and a queue: the arguments of `reconcile`."""
    sqs = store.sqs()
    return {
        "s3": s3,
        "sqs": sqs,
        "bucket": new_bucket(),
        "queue_url": sqs.create_queue(QueueName=f"test-{uuid.uuid4().hex[:12]}")["QueueUrl"],
        "results": ResultStore(s3, new_bucket()),
        "dead_letters_bucket": new_bucket(),
        "dead_letters_prefix": "letters",
    }


@pytest.fixture
def announced(place: dict[str, Any]) -> Announced:
    """Everything in the queue, taken out of it."""

    def take() -> list[ObjectEvent]:
        events = []
        while (
            received := place["sqs"]
            .receive_message(QueueUrl=place["queue_url"], MaxNumberOfMessages=10)
            .get("Messages")
        ):
            for message in received:
                events += parse_notification(message["Body"])
                place["sqs"].delete_message(QueueUrl=place["queue_url"], ReceiptHandle=message["ReceiptHandle"])
        return events

    return take


def put(place: dict[str, Any], key: str, body: bytes = b"x") -> ObjectRef:
    etag = place["s3"].put_object(Bucket=place["bucket"], Key=key, Body=body)["ETag"].strip('"')
    return ObjectRef(place["bucket"], key, etag=etag, size=len(body))


def queued(place: dict[str, Any]) -> int:
    answer = place["sqs"].get_queue_attributes(QueueUrl=place["queue_url"], AttributeNames=["All"])
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


def result_of(ref: ObjectRef) -> Result:
    prediction = Prediction(label="seven", index=7, score=0.9)
    return Result(object=ResultObject.of(ref), event=EVENT, model=MODEL, predictions=(prediction,), timing_ms={})


def put_dead_letter(place: dict[str, Any], event: Event) -> None:
    document = json.loads(structured(event)[1])
    letter = DeadLetter(event=document, error=DeadLetterError(code=422), attempts=1, received=NOW)
    key = dead_letter_key(place["dead_letters_prefix"], event)
    place["s3"].put_object(Bucket=place["dead_letters_bucket"], Key=key, Body=dump(letter))


def object_cloudevent(ref: ObjectRef) -> Event:
    return parse_record(notification(ref, NOW, "us-east-1")["Records"][0]).cloudevent()


def test_only_what_nothing_came_of_is_announced(place: dict[str, Any], announced: Announced) -> None:
    refs = [put(place, key) for key in KEYS]
    assert reconcile(**place) == ReconcileReport(objects=6, missing=6, announced=6)
    events = announced()
    assert {event.object for event in events} == set(refs)
    assert all(event.creates for event in events)

    place["results"].write(result_of(refs[0]))
    place["results"].write_gone(Gone(object=ResultObject.of(refs[1]), event=EVENT, reason="deleted"))
    put_dead_letter(place, object_cloudevent(refs[2]))
    put_dead_letter(place, json_event(id="r", source="t", type=PREDICTION_TYPE, subject="x//y", data=None))
    reply = Event(id="r2", source="t", type=PREDICTION_TYPE, subject="x//y", data=dump(result_of(refs[3])))
    put_dead_letter(place, reply)
    assert reconcile(**place) == ReconcileReport(objects=6, missing=2, announced=2)
    assert {event.object.key for event in announced()} == {"%2F.txt", "a.jpg/inside"}


def test_a_new_version_of_a_key_is_announced(place: dict[str, Any], announced: Announced) -> None:
    old = put(place, "a.jpg")
    place["results"].write(result_of(old))
    put_dead_letter(place, object_cloudevent(old))
    new = put(place, "a.jpg", b"another")
    assert reconcile(**place).announced == 1
    assert [event.object for event in announced()] == [new]


def test_the_event_is_the_same_however_often_it_is_announced(place: dict[str, Any], announced: Announced) -> None:
    put(place, "a.jpg")
    ids = set()
    for _ in range(2):
        reconcile(**place)
        ids |= {event.id for event in announced()}
    assert len(ids) == 1


def test_the_filter_of_the_notification_is_kept(place: dict[str, Any], announced: Announced) -> None:
    for key in ("in/a.jpg", "in/a.txt", "b.jpg"):
        put(place, key)
    assert reconcile(**place, key_prefix="in/", key_suffix=".jpg") == ReconcileReport(1, 1, 1)
    assert [event.object.key for event in announced()] == ["in/a.jpg"]


def test_what_came_after_the_start_is_left_to_the_store(place: dict[str, Any], announced: Announced) -> None:
    place["s3"].put_object(Bucket=place["bucket"], Key="a.jpg", Body=b"1")
    (listed,) = place["s3"].list_objects_v2(Bucket=place["bucket"])["Contents"]
    modified = listed["LastModified"]

    assert reconcile(**place, not_after=modified - timedelta(seconds=1)) == ReconcileReport(0, 0, 0)
    assert announced() == []
    assert reconcile(**place, not_after=modified).announced == 1


def test_it_waits_for_room_in_the_queue_and_can_be_stopped(place: dict[str, Any], announced: Announced) -> None:
    with ThreadPoolExecutor(4) as putters:
        list(putters.map(lambda number: put(place, f"{number:04}"), range(45)))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as background:
        report = background.submit(reconcile, **place, max_queued=20, stop=stop)
        seen: set[str] = set()

        def all_announced() -> bool:
            seen.update(event.object.key for event in announced())
            return len(seen) == 45

        wait_for(all_announced, "all of them")
        assert report.result(10) == ReconcileReport(45, 45, 45)
        report = background.submit(reconcile, **place, max_queued=20, stop=stop)
        wait_for(lambda: queued(place) == 20, "a full queue")
        stop.set()
        assert report.result(10).announced == 20


def test_a_missing_bucket_is_named(place: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="comparing bucket 'missing-bucket'"):
        reconcile(**place | {"bucket": "missing-bucket"})
