"""What of a topic and a notification differs, and how it is said."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from whimbrel.core.errors import InputRefused
from whimbrel.eventing.rgw.topic_plan import (
    ENDPOINT,
    OPAQUE,
    PERSISTENT,
    NotificationWish,
    TopicWish,
    notification_changes,
    topic_attributes,
    topic_changes,
)

ARN = "arn:aws:sns:zg::photos"
CAPTURED = Path(__file__).parents[1] / "data" / "rgw" / "sns_get_topic_attributes.txt"


def captured_attributes() -> dict[str, str]:
    entries = re.findall(r"<key>(.*?)</key><value>(.*?)</value>", CAPTURED.read_text())
    return {html.unescape(name): html.unescape(value) for name, value in entries}


def test_a_captured_topic_is_as_it_was_asked_for() -> None:
    attributes = topic_attributes(captured_attributes())
    assert attributes == {ENDPOINT: "http://127.0.0.1:17390/raw", PERSISTENT: "true", OPAQUE: "oq"}
    assert topic_changes(attributes, TopicWish("rawt", attributes)) == []


def test_each_difference_of_a_topic_is_a_line_and_no_secret_is_in_it() -> None:
    wish = TopicWish("photos", {ENDPOINT: "https://u:p@host/", PERSISTENT: "true", "verify-ssl": "false"})
    assert topic_changes(None, wish) == [
        "create topic 'photos': persistent=true, push-endpoint=https://***@host/, verify-ssl=false"
    ]
    found = {ENDPOINT: "https://u:q@host/", PERSISTENT: "true", "cloudevents": "true"}
    assert topic_changes(found, wish) == [
        "topic 'photos': cloudevents from true to nothing",
        "topic 'photos': push-endpoint from https://***@host/ to https://***@host/",
        "topic 'photos': verify-ssl from nothing to false",
    ]
    same = TopicWish("photos", {**found, "verify-ssl": "true", OPAQUE: ""})
    assert topic_changes(found, same) == [], "defaults are no difference"


def test_notifications_are_compared_whatever_the_order() -> None:
    wish = NotificationWish("bkt", "w", ("s3:ObjectCreated:*", "s3:ObjectRemoved:*"), "in/", "", {"Color": "red"})
    there = wish.configuration(ARN)
    there["Events"].reverse()
    assert notification_changes([there], wish, ARN) == []
    assert notification_changes([], wish, ARN) == [
        "create notification 'w' of bucket 'bkt': topic photos, s3:ObjectCreated:*, s3:ObjectRemoved:*, "
        "key prefix=in/, metadata x-amz-meta-color=red"
    ]
    (line,) = notification_changes([there], NotificationWish("bkt", "w"), ARN)
    assert line.endswith("to topic photos, s3:ObjectCreated:*")


@pytest.mark.parametrize(
    ("name", "attributes", "said"),
    [
        ("a b", {ENDPOINT: "http://h"}, "expected a topic name"),
        ("t", {}, "expected an endpoint"),
        ("t", {ENDPOINT: "ftp://h"}, "expected an endpoint"),
        ("t", {ENDPOINT: "http://"}, "expected an endpoint"),
        ("t", {ENDPOINT: "http://h", "speed": "1"}, "expected attributes among"),
    ],
)
def test_what_no_gateway_takes_is_refused(name: str, attributes: dict[str, str], said: str) -> None:
    with pytest.raises(InputRefused, match=said):
        TopicWish(name, attributes)


@pytest.mark.parametrize("events", [(), ("PUT",), ("s3:ObjectCreated",), ("s3:ObjectCreated:*", "")])
def test_events_that_are_none_are_refused(events: tuple[str, ...]) -> None:
    with pytest.raises(InputRefused, match="expected events such as"):
        NotificationWish("bkt", "w", events)
