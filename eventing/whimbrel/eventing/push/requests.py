"""What one posted request holds: S3 records or CloudEvents, as events to deliver, and who it is when it comes again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from whimbrel.core.cloudevent import Event, is_cloudevent, parse, structured
from whimbrel.core.errors import InputRefused
from whimbrel.core.records import object_event
from whimbrel.eventing.notifications import read_notification, refusal_of, sendable
from whimbrel.eventing.upstream import Unreadable

# RGW with `cloudevents=true`: com.amazonaws.<eventName>, where the S3 adapter has com.amazonaws.s3.<eventName>.
_RGW_TYPES = ("com.amazonaws.Object", "com.amazonaws.s3:Object")


def read_request(headers: Mapping[str, str], body: bytes) -> list[Event | Unreadable]:
    """The events of a request, none where it asks for nothing (S3's test event); never raises."""
    if not is_cloudevent(headers):
        return read_notification(body)
    try:
        events = parse(headers, body)
    except (InputRefused, ValueError, RecursionError) as error:
        refusal = error if isinstance(error, InputRefused) else InputRefused(f"expected a CloudEvent, seen {error}")
        return [Unreadable(body, refusal)]
    return [_in_our_words(event) for event in events]


def identity(readings: Sequence[Event | Unreadable]) -> str:
    """The same for the same events, whoever posts them again and in whichever form."""
    digest = hashlib.sha256()
    for reading in readings:
        parts = (
            (b"", reading.raw) if isinstance(reading, Unreadable) else (reading.source.encode(), reading.id.encode())
        )
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _in_our_words(event: Event) -> Event | Unreadable:
    """RGW's own CloudEvent under the type and the id that every other source of ours gives the same record."""
    try:
        if not event.type.startswith(_RGW_TYPES):
            return sendable(event)
        return sendable(object_event(event).cloudevent().with_extensions(event.extensions))
    except (InputRefused, ValueError) as error:
        return Unreadable(structured(event)[1], refusal_of(error))
