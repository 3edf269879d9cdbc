"""What the PubSub REST API answers, as values: topics, subscriptions, notifications, pages of events; no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    arn: str
    subscriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subscription:
    """`push_endpoint` is empty where events are pulled."""

    name: str
    topic: str
    push_endpoint: str


@dataclass(frozen=True, slots=True)
class Notification:
    """What of a bucket goes to a topic; no events: all kinds."""

    topic: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PulledEvent:
    """`id` is what the acknowledgement names; `record` is the event, or the S3 record, as it came."""

    id: str
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """`next_marker` is None on the last page. `without_id` counts what can neither be named nor acknowledged."""

    events: tuple[PulledEvent, ...]
    next_marker: str | None
    without_id: int = 0


def parse_page(body: bytes) -> Page:
    """A page of events, in the gateway's own shape (`events`) or in S3's (`Records`).

    Raises InputRefused for anything else; events that are broken inside are left to whoever reads them.
    """
    document = _mapping(_document(body), "a page of events")
    key, name = ("Records", "eventId") if "Records" in document else ("events", "id")
    entries = _list(document, key)
    named = [entry for entry in entries if isinstance(entry, dict) and _is_name(entry.get(name))]
    marker = document.get("next_marker")
    # 16.2 writes the truth as a text.
    truncated = document.get("is_truncated") in (True, "true")
    if truncated and not _is_name(marker):
        raise InputRefused(f"expected a next_marker on a page that is truncated, seen {marker!r:.80}")
    return Page(
        tuple(PulledEvent(entry[name], entry) for entry in named),
        str(marker) if truncated else None,
        len(entries) - len(named),
    )


def parse_topics(body: bytes) -> list[Topic]:
    document = _mapping(_document(body), "a list of topics")
    return [_topic(entry) for entry in _list(document, "topics")]


def parse_topic(body: bytes) -> Topic:
    return _topic(_document(body))


def parse_subscription(body: bytes) -> Subscription:
    """16.2 describes a subscription that does not exist too: with an empty name."""
    document = _mapping(_document(body), "a subscription")
    destination = _mapping(document.get("dest"), "the dest of a subscription")
    return Subscription(_text(document, "name"), _text(document, "topic"), _text(destination, "push_endpoint"))


def parse_notifications(body: bytes) -> list[Notification]:
    document = _mapping(_document(body), "the notifications of a bucket")
    found = []
    for entry in _list(document, "topics"):
        described = _mapping(entry, "a notification")
        topic = _mapping(described.get("topic"), "the topic of a notification")
        found.append(Notification(_text(topic, "name"), tuple(map(str, _list(described, "events")))))
    return found


def _topic(document: Any) -> Topic:
    described = _mapping(document, "a topic")
    topic = _mapping(described.get("topic"), "a topic")
    return Topic(_text(topic, "name"), _text(topic, "arn"), tuple(map(str, _list(described, "subs"))))


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InputRefused(f"expected JSON from the gateway's PubSub API, seen {body[:80]!r}") from None


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputRefused(f"expected {what} as an object, seen {type(value).__name__}")
    return value


def _list(parent: dict[str, Any], name: str) -> list[Any]:
    value = parent.get(name)
    if not isinstance(value, list):
        raise InputRefused(f"expected a list at {name}, seen {type(value).__name__}")
    return value


def _text(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str):
        raise InputRefused(f"expected text at {name}, seen {value!r:.80}")
    return value


def _is_name(value: Any) -> bool:
    """Text that a URL can carry."""
    return isinstance(value, str) and bool(value) and value.isprintable()
