"""What a posted request holds, and who it is when it comes again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from whimbrel.core.cloudevent import BATCHED, STRUCTURED, Event, batched, binary, structured
from whimbrel.core.records import parse_record
from whimbrel.eventing.push.requests import identity, read_request
from whimbrel.eventing.upstream import Unreadable

from .conftest import notification, record

JSON = {"content-type": "application/json"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
media_types = st.sampled_from(["application/json", STRUCTURED, BATCHED, "", "application/xml; charset=utf-8"])
attributes = st.dictionaries(
    st.sampled_from(["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-subject", "ce-x"]),
    st.text(st.characters(max_codepoint=255), max_size=30)
    | st.sampled_from(["1.0", "com.amazonaws.ObjectCreated:Put", "%ff"]),
)
record_changes = st.dictionaries(
    st.sampled_from(["eventSource", "awsRegion", "eventTime", "eventName", "responseElements", "s3"]), json_values
)


def test_one_record_has_one_identity_in_every_form_and_place() -> None:
    event = parse_record(record("a b.png", 3)).cloudevent()
    forms = [
        (JSON, notification(record("a b.png", 3)).encode()),
        (JSON, json.dumps({"Key": "photos/a b.png", **json.loads(notification(record("a b.png", 3)))}).encode()),
        binary(event),
        structured(event),
        batched([event]),
    ]
    assert len({identity(read_request(headers, body)) for headers, body in forms}) == 1
    others = [notification(record("a b.png", 4)), notification(record("a b.png", 3), record("b", 4)), "{"]
    assert len({identity(read_request(JSON, body.encode())) for body in others} | {identity([])}) == 4


def test_an_event_of_no_store_passes_as_it_came() -> None:
    event = Event(id="1", source="/s", type="com.amazonaws.dynamodb.x", data=b"1", datacontenttype="text/plain")
    assert read_request(*binary(event)) == [event]


def test_half_of_a_surrogate_pair_in_an_event_of_rgw_is_unreadable() -> None:
    event = parse_record(record("half", 3)).cloudevent()
    renamed = replace(
        event, type="com.amazonaws.ObjectCreated:Put", data=(event.data or b"").replace(b"half", b"\\ud83d")
    )
    (reading,) = read_request(*binary(renamed))
    assert isinstance(reading, Unreadable)
    assert "expected" in str(reading.error)


def test_more_attributes_than_a_server_reads_are_unreadable() -> None:
    event = Event(id="1", source="/s", type="t", extensions={"long": "x" * 16_384})
    (reading,) = read_request(*structured(event))
    assert isinstance(reading, Unreadable)
    assert "attributes of at most 16384 bytes" in str(reading.error)


@given(media_types, attributes, st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@example("application/json", {}, b"[" * 100_000)
@example(STRUCTURED, {}, b'{"data":' * 50_000)
def test_anything_is_read_or_unreadable(media_type: str, headers: dict[str, str], body: bytes) -> None:
    readings = read_request({"content-type": media_type, **headers}, body)
    assert all(isinstance(reading, (Event, Unreadable)) for reading in readings)
    assert identity(readings) == identity(read_request({"content-type": media_type, **headers}, body))


@given(record_changes)
def test_a_record_with_anything_in_it_is_read_or_unreadable(changes: dict[str, Any]) -> None:
    (reading,) = read_request(JSON, json.dumps({"Records": [record("k") | changes]}).encode())
    assert isinstance(reading, (Event, Unreadable))
