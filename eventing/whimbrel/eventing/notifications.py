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
        return [Unreadable(body, _refusal(error))]
    return [read_record(record) for record in records]


def read_record(record: Any) -> Event | Unreadable:
    """One record of a notification, or one event of RGW's pull mode; never raises."""
    try:
        return parse_record(record).cloudevent()
    except (InputRefused, ValueError) as error:
        return Unreadable(json.dumps(record).encode(), _refusal(error))


def _refusal(error: InputRefused | ValueError) -> InputRefused:
    return error if isinstance(error, InputRefused) else InputRefused(f"expected Unicode text, seen {error}")
