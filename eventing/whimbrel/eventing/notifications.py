"""What a message of a queue holds: S3 notifications, record by record, as CloudEvents or as what could not be read."""

from __future__ import annotations

import json
from typing import Any, Final

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.core.records import notification_records, parse_record
from whimbrel.eventing.upstream import Unreadable

MAX_BYTES: Final = (
    1 << 20
)  # S3's own are below 256 KiB; what is larger would be refused all the way to the dead letters
MAX_ATTRIBUTE_BYTES: Final = 16_384  # of one event, in sum


def read_notification(body: bytes) -> list[Event | Unreadable]:
    """One S3 notification; never raises."""
    if len(body) > MAX_BYTES:
        refusal = InputRefused(
            f"expected a notification of at most {MAX_BYTES} bytes, seen {len(body)}: kept its begin"
        )
        return [Unreadable(body[:MAX_BYTES], refusal)]
    try:
        records = notification_records(body)
    except (InputRefused, ValueError) as error:
        return [Unreadable(body, refusal_of(error))]
    return [read_record(record) for record in records]


def read_record(record: Any) -> Event | Unreadable:
    """One record of a notification, or one event of RGW's pull mode; never raises."""
    try:
        return sendable(parse_record(record).cloudevent())
    except (InputRefused, ValueError) as error:
        return Unreadable(json.dumps(record).encode(), refusal_of(error))


def sendable(event: Event) -> Event:
    """The event. Raises InputRefused when its headers would be more than an HTTP server reads.

    Servers stop at 64 KiB, and each byte may become three.
    """
    texts = [event.id, event.source, event.type, event.subject, event.datacontenttype, event.dataschema]
    for pair in event.extensions.items():
        texts += pair
    size = sum(len(text.encode()) for text in texts if text)
    if size > MAX_ATTRIBUTE_BYTES:
        raise InputRefused(f"expected attributes of at most {MAX_ATTRIBUTE_BYTES} bytes, seen {size}")
    return event


def refusal_of(error: InputRefused | ValueError) -> InputRefused:
    return error if isinstance(error, InputRefused) else InputRefused(f"expected Unicode text, seen {error}")
