"""What the PubSub API answers, as captured and as no gateway would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.eventing.notifications import read_record
from whimbrel.eventing.rgw.pull_documents import (
    Page,
    parse_notifications,
    parse_page,
    parse_subscription,
    parse_topic,
    parse_topics,
)
from whimbrel.eventing.upstream import Unreadable

CAPTURED = Path(__file__).parents[1] / "data" / "rgw"
PARSERS: list[Callable[[bytes], object]] = [
    parse_page,
    parse_topics,
    parse_topic,
    parse_subscription,
    parse_notifications,
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


events = st.fixed_dictionaries({"id": st.text()}, optional={"info": json_values, "event": st.text()})


def captured(name: str) -> bytes:
    """The body of the answer in a captured exchange."""
    return (CAPTURED / f"pull_{name}.http").read_bytes().replace(b"\r\n", b"\n").rpartition(b"\n\n")[2].strip()


def test_captured_pages_are_read_in_both_shapes() -> None:
    first, second, none = (parse_page(captured(name)) for name in ("events_page1", "events_page2", "events_none"))
    assert first.next_marker == "s1/1795179351.708071.46093d05"
    assert first.events[-1].id == "1795179351.708071.46093d05"
    assert len({event.id for page in (first, second) for event in page.events}) == 6
    assert none == Page((), None)
    records = parse_page(captured("s3records_put_delete"))
    assert [event.id for event in records.events] == ["1795179473.194428.cf9e2acf", "1795179474.387279.cf9e2acf"]
    for event in (*first.events, *second.events, *records.events):
        assert isinstance(read_record(event.record), Event)


def test_captured_topics_subscriptions_and_notifications_are_read() -> None:
    assert [topic.subscriptions for topic in parse_topics(captured("topics_list"))] == [("s1",)]
    assert parse_topic(captured("topic_get")).arn == "arn:aws:sns:zg::t1"
    assert parse_subscription(captured("sub_get_push")).push_endpoint == "http://127.0.0.1:17490/pushed"
    (notification,) = parse_notifications(captured("notification_list"))
    assert notification.events == ("OBJECT_CREATE", "OBJECT_DELETE", "DELETE_MARKER_CREATE")


def test_events_without_an_id_are_counted_and_the_others_kept() -> None:
    page = parse_page(json.dumps({"events": [{"id": "1"}, {"id": ""}, {"id": 3}, "x", {"id": "a\nb"}]}).encode())
    assert [event.id for event in page.events] == ["1"]
    assert page.without_id == 4


def test_a_truncated_page_without_a_marker_would_be_listed_for_ever() -> None:
    with pytest.raises(InputRefused, match="expected a next_marker on a page that is truncated"):
        parse_page(b'{"is_truncated": "true", "next_marker": "", "events": []}')


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_by_name(body: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(body)
        except InputRefused as error:
            assert str(error).startswith("expected")


@given(
    st.fixed_dictionaries(
        {"events": st.lists(events)}, optional={"is_truncated": json_values, "next_marker": json_values}
    )
)
def test_a_page_is_read_whatever_its_events_hold(document: dict[str, Any]) -> None:
    try:
        page = parse_page(json.dumps(document).encode())
    except InputRefused:
        assert document["is_truncated"] in (True, "true")
        return
    assert len(page.events) + page.without_id == len(document["events"])
    for event in page.events:
        assert isinstance(read_record(event.record), (Event, Unreadable))
