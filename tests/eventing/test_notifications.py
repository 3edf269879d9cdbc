"""Whatever lies in a queue is an event that can be sent, or is unreadable and can be buried: nothing raises."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.cloudevent import Event, binary, parse, structured
from whimbrel.core.records import object_event
from whimbrel.core.references import path_of_key
from whimbrel.eventing.notifications import MAX_BYTES, read_notification, read_record
from whimbrel.eventing.unreadable import UNREADABLE_TYPE, unreadable_event
from whimbrel.eventing.upstream import Unreadable

from .conftest import notification, record

CAPTURED = Path(__file__).parents[1] / "data" / "rgw"
RGW = json.loads((CAPTURED / "amqp_broker.txt").read_text().partition("\n\n")[2])["Records"][0]
PULLED = json.loads((CAPTURED / "pull_event_put.json").read_text())[0]
MINIO = record("a+b.png", eventSource="minio:s3", eventName="s3:ObjectCreated:Put")

any_text = st.text(st.characters(), max_size=12)  # halves of surrogate pairs among them, as JSON can spell them
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something lies in a JSON document."""
    yield above
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*above, name))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths(inner, (*above, number))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def check(reading: Event | Unreadable) -> None:
    """It can be posted, and is read as the same event by whoever gets it."""
    if isinstance(reading, Unreadable):
        event = unreadable_event(reading, "/whimbrel/sources/test")
        assert event.type == UNREADABLE_TYPE
        assert event.extensions["knativeerrorcode"] == str(reading.error.status)
    else:
        event = reading
        object_event(event)
        assert ".." not in path_of_key(event.subject or "").split("/")
    headers, body = binary(event)
    assert all(text.isascii() and text.isprintable() for pair in headers.items() for text in pair)
    assert parse(headers, body)[0].attributes() == event.attributes()
    assert parse(*structured(event))[0].id == event.id


@given(st.sampled_from([RGW, PULLED, MINIO]), st.data())
def test_a_record_with_any_value_anywhere(base: Any, data: st.DataObject) -> None:
    changed = replaced(base, data.draw(st.sampled_from(list(paths(base)))), data.draw(json_values))
    check(read_record(changed))
    for reading in read_notification(json.dumps({"Records": [changed, base]}).encode()):
        check(reading)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body(body: bytes) -> None:
    for reading in read_notification(body):
        check(reading)


@given(st.text(min_size=1, max_size=1024))
def test_any_key(key: str) -> None:
    reading = read_record(record(quote_plus(key)))
    check(reading)
    if isinstance(reading, Event):
        assert reading.subject == key


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (notification(record("k" * 1025)), "at most 1024 bytes"),
        (notification(record("a%0Ab")), "control characters"),
        (notification(record("a%E9b")), "UTF-8"),
        (notification(record("k", eventName="ObjectCreated:" + "P" * 16_384)), "attributes of at most 16384 bytes"),
        (notification(record("k", eventSource="gcs")), "expected eventSource aws:s3, ceph:s3 or minio:s3"),
        (notification(record("k", eventTime="0001-01-01T00:00:00+14:00")), "RFC 3339"),
        (notification(record("k", eventTime="yesterday")), "yesterday"),
        ('{"Records":[{"s3":' + "9" * 5000 + "}]}", "JSON"),
        ('{"Records":' + "[" * 100_000, "JSON"),
        (json.dumps({"Type": "Notification", "Message": 7}), "Message"),
        ('{"Records":[]}' + " " * MAX_BYTES, "at most 1048576 bytes"),
    ],
)
def test_the_fault_is_named(body: str, told: str) -> None:
    (reading,) = read_notification(body.encode())
    assert isinstance(reading, Unreadable)
    assert told in str(reading.error)
    check(reading)


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a/../b", "k" * 1024, "ü" * 512, ".", "a//b", "%2e%2e/x", "\u202egpj.exe"]
)
def test_a_key_that_is_odd_but_allowed_is_an_event(key: str) -> None:
    reading = read_record(replaced(RGW, ("s3", "object", "key"), key))
    assert isinstance(reading, Event)
    assert reading.subject == key
    check(reading)


def test_a_clock_that_is_off_by_hours_changes_no_identity() -> None:
    now, ahead = RGW, replaced(RGW, ("eventTime",), "2099-01-01T00:00:00Z")
    events = [read_record(each) for each in (now, ahead)]
    assert isinstance(events[0], Event) and isinstance(events[1], Event)
    assert events[0].id == events[1].id
