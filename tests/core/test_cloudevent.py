"""The CloudEvent codec: three content modes, both ways, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.cloudevent import (
    BATCHED,
    MAX_BATCH_EVENTS,
    STRUCTURED,
    Event,
    batched,
    binary,
    is_cloudevent,
    json_event,
    parse,
    structured,
)
from whimbrel.core.errors import InputRefused

text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
times = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
extensions = st.dictionaries(st.from_regex(r"x[a-z0-9]{1,18}", fullmatch=True), text, max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
json_events = st.builds(
    json_event,
    data=json_values.filter(lambda value: value is not None),
    id=text,
    source=text,
    type=text,
    subject=st.none() | text,
    time=st.none() | times,
    extensions=extensions,
)
byte_events = st.builds(
    Event,
    data=st.binary(min_size=1, max_size=60),
    datacontenttype=st.just("image/png"),
    id=text,
    source=text,
    type=text,
    subject=st.none() | text,
    time=st.none() | times,
    extensions=extensions,
)


@given(json_events | byte_events)
def test_binary_mode_gives_back_the_same_event(event: Event) -> None:
    headers, body = binary(event)

    assert parse(headers, body) == [event]
    for name, value in headers.items():
        assert name.isascii() and value.isascii(), "HTTP carries only ASCII safely"


@given(json_events | byte_events)
def test_binary_mode_is_what_the_library_writes(event: Event) -> None:
    """It percent-encodes nothing, and always has a time."""
    headers, body = binary(event)
    theirs, their_body = to_binary(CloudEvent(event.attributes(), event.data), data_marshaller=lambda data: data)

    assert {name: unquote(value) for name, value in headers.items()} == {
        name: value for name, value in theirs.items() if name != "ce-time" or event.time is not None
    }
    assert body == their_body


@given(json_events)
def test_structured_mode_gives_back_the_same_json(event: Event) -> None:
    (parsed,) = parse(*structured(event))

    assert parsed.json() == event.json()
    assert parsed.attributes() == event.attributes()


@given(byte_events)
def test_structured_mode_gives_back_the_same_bytes(event: Event) -> None:
    assert parse(*structured(event)) == [event]


@given(st.lists(byte_events, max_size=4))
def test_batched_mode_gives_back_every_event(events: list[Event]) -> None:
    assert parse(*batched(events)) == events


@given(st.binary(max_size=80), st.sampled_from([STRUCTURED, BATCHED, "application/json", ""]))
def test_any_bytes_are_parsed_or_refused(body: bytes, content_type: str) -> None:
    try:
        events = parse({"Content-Type": content_type}, body)
    except InputRefused:
        return
    assert content_type == BATCHED and events == [], "random bytes make no event but an empty batch"


@given(
    st.dictionaries(st.sampled_from(["ce-id", "ce-source", "ce-type", "ce-time", "ce-specversion", "ce-x"]), st.text())
)
def test_any_headers_are_parsed_or_refused(headers: dict[str, str]) -> None:
    try:
        (event,) = parse({"ce-specversion": "1.0"} | headers, b"")
    except InputRefused:
        return
    assert event.id and event.source and event.type


def test_an_unencoded_utf8_header_is_read_as_its_sender_meant_it() -> None:
    raw = "in/straße.jpg".encode().decode("latin-1")

    (event,) = parse({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-subject": raw}, b"")

    assert event.subject == "in/straße.jpg"


def test_json_that_is_none_travels_as_bytes() -> None:
    event = Event(id="1", source="s", type="t", datacontenttype="application/json", data=b"{oh")

    assert parse(*structured(event)) == [event]


_GOOD = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


@pytest.mark.parametrize(
    ("headers", "document", "named"),
    [
        ({"content-type": STRUCTURED}, {**_GOOD, "specversion": "0.3"}, "specversion"),
        ({"content-type": STRUCTURED}, {**_GOOD, "id": ""}, "id"),
        ({"content-type": STRUCTURED}, {key: _GOOD[key] for key in ("specversion", "id", "source")}, "type"),
        ({"content-type": STRUCTURED}, {**_GOOD, "time": "yesterday"}, "yesterday"),
        ({"content-type": STRUCTURED}, {**_GOOD, "time": "2026-01-01T00:00:00"}, "time"),
        ({"content-type": STRUCTURED}, {**_GOOD, "subject": {"a": 1}}, "subject"),
        ({"content-type": STRUCTURED}, {**_GOOD, "datacontenttype": "a/b\r\nx: y"}, "datacontenttype: expected"),
        ({"content-type": STRUCTURED}, {**_GOOD, "subject": "\ud800"}, "subject: not UTF-8"),
        ({"content-type": STRUCTURED}, {**_GOOD, "x1": "\ud800"}, "x1: not UTF-8"),
        ({"content-type": STRUCTURED}, {**_GOOD, "data_base64": "%%"}, "data_base64"),
        ({"content-type": STRUCTURED}, [_GOOD], "JSON object"),
        ({"content-type": BATCHED}, _GOOD, "array"),
        ({"content-type": BATCHED}, [_GOOD] * (MAX_BATCH_EVENTS + 1), "at most"),
        ({"content-type": "text/plain"}, _GOOD, "text/plain"),
        ({}, _GOOD, "none"),
    ],
)
def test_the_fault_is_named(headers: Mapping[str, str], document: object, named: str) -> None:
    with pytest.raises(InputRefused, match=named):
        parse(headers, json.dumps(document).encode())


def test_half_a_surrogate_pair_in_json_data_stays_escaped() -> None:
    (event,) = parse({"content-type": STRUCTURED}, json.dumps({**_GOOD, "data": {"a": "\ud800"}}).encode())
    assert event.json() == {"a": "\ud800"}
    assert parse(*structured(event)) == [event]
    assert json_event(id="1", source="s", type="t", data={"a": "\ud800"}).json() == {"a": "\ud800"}


def test_an_event_with_a_bad_extension_is_not_made() -> None:
    with pytest.raises(InputRefused, match="'Bad-Name'"):
        Event(id="1", source="s", type="t", extensions={"Bad-Name": "x"})


def test_which_messages_are_cloudevents() -> None:
    assert is_cloudevent({"Ce-Specversion": "1.0"})
    assert is_cloudevent({"Content-Type": "application/cloudevents+json; charset=utf-8"})
    assert not is_cloudevent({"Content-Type": "application/json"})
