"""Object events: what AWS, Ceph RGW and MinIO say happened to an object, as one value and as a CloudEvent.

Shapes: the S3 event message (https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html)
as AWS, RGW and MinIO each write it, and the events of RGW's PubSub pull mode (Ceph up to 17). The CloudEvent is that
of CloudEvents' S3 adapter (https://github.com/cloudevents/spec/blob/main/cloudevents/adapters/aws-s3.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from whimbrel.core.cloudevent import Event, json_event, parse_time
from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef

TYPE_PREFIX = "com.amazonaws.s3."
RGW_TYPE_PREFIX = "com.amazonaws."  # RGW with the topic attribute cloudevents=true leaves the `s3.` out

AWS, CEPH, MINIO = "aws:s3", "ceph:s3", "minio:s3"

_SEQUENCER = re.compile(r"[0-9a-fA-F]{1,32}")

# RGW's pull mode has names of its own.
_PULL_EVENT_NAMES = {
    "OBJECT_CREATE": "ObjectCreated:*",
    "OBJECT_DELETE": "ObjectRemoved:Delete",
    "DELETE_MARKER_CREATE": "ObjectRemoved:DeleteMarkerCreated",
}


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One record, decoded. `record` is the JSON as it came, which the CloudEvent carries unchanged.

    `sequencer` orders the events of one key from one source: a greater one is later. `time` is the record's
    eventTime, or the object's mtime where that is what orders (RGW's pull mode). `stamps` are the texts that tell
    two records of one object version apart: eTag or mtime, and the event's own time.
    """

    name: str
    event_source: str
    region: str
    object: ObjectRef
    time: datetime
    sequencer: int | None
    request_id: str
    stamps: tuple[str, str]
    record: Mapping[str, Any]

    @property
    def source(self) -> str:
        return f"{self.event_source}.{self.region}.{self.object.bucket}"

    @property
    def type(self) -> str:
        return TYPE_PREFIX + self.name

    @property
    def creates(self) -> bool:
        return self.name.startswith("ObjectCreated:")

    @property
    def id(self) -> str:
        """Stable for one record, whoever redelivers it (design contract 1)."""
        version = self.object.version_id or ""
        if self.request_id:
            sequencer = "" if self.sequencer is None else f"{self.sequencer:x}"
            return f"{self.request_id}.{_digest(self.object.key, version, sequencer)[:16]}"
        return _digest(self.source, self.object.key, version, *self.stamps, self.name)

    def cloudevent(self) -> Event:
        return json_event(
            id=self.id,
            source=self.source,
            type=self.type,
            subject=self.object.key,
            time=self.time,
            data=self.record,
        )


def parse_notification(body: bytes | str) -> list[ObjectEvent]:
    """Every record of one S3 notification message, in its order; raises InputRefused for anything else."""
    return [parse_record(record) for record in notification_records(body)]


def notification_records(body: bytes | str) -> list[Any]:
    """The records of one S3 notification message as they came: one that cannot be read leaves the others readable.

    The `s3:TestEvent`, which S3 sends once when a notification is configured, holds none. An SNS envelope (S3 to
    SNS to SQS) is opened. Raises InputRefused for what is no notification.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise InputRefused("expected an S3 notification in JSON") from None
    if isinstance(document, dict) and document.get("Type") == "Notification":
        return notification_records(_string(document, "Message"))
    if isinstance(document, dict) and document.get("Event") == "s3:TestEvent":
        return []
    return _records(document)


def parse_record(record: Any) -> ObjectEvent:
    """One record in S3's shape, or one event of RGW's pull mode.

    Raises InputRefused that names the missing or wrong field, an unknown eventSource among them.
    """
    if not isinstance(record, dict):
        raise InputRefused(f"expected an object as event record, seen {type(record).__name__}")
    if "info" in record and "event" in record:
        return _pull_event(record)
    return _s3_record(record)


def object_event(event: Event) -> ObjectEvent:
    """The record inside a CloudEvent of ours, of Knative's S3 sources, or of RGW (`cloudevents=true`).

    Raises InputRefused when the event is of another type or its data is no record.
    """
    if not event.type.startswith(RGW_TYPE_PREFIX):
        raise InputRefused(f"expected an event of type {TYPE_PREFIX}*, seen {event.type!r}")
    document = event.json()
    if isinstance(document, dict) and "Records" in document:
        records = _records(document)
        if len(records) != 1:
            raise InputRefused(f"expected one record in the data of event {event.id!r}, seen {len(records)}")
        document = records[0]
    return parse_record(document)


def _s3_record(record: dict[str, Any]) -> ObjectEvent:
    event_source = _string(record, "eventSource")
    s3 = _mapping(record, "s3")
    bucket, described = _mapping(s3, "bucket"), _mapping(s3, "object")
    responses = record.get("responseElements") or {}
    if not isinstance(responses, dict):
        raise InputRefused("expected an object at responseElements of an event record")
    key = _decoded_key(event_source, _string(described, "key"))
    etag = _optional_string(described, "eTag").strip('"')
    return ObjectEvent(
        name=_string(record, "eventName").removeprefix("s3:"),
        event_source=event_source,
        region=_optional_string(record, "awsRegion"),
        object=ObjectRef(
            bucket=_string(bucket, "name"),
            key=key,
            etag=etag or None,
            version_id=_version_id(described),
            size=_size(described),
        ),
        time=_time(record, "eventTime"),
        sequencer=_sequencer(event_source, _optional_string(described, "sequencer")),
        request_id=_request_id(responses),
        stamps=(etag, _string(record, "eventTime")),
        record=record,
    )


def _pull_event(record: dict[str, Any]) -> ObjectEvent:
    info = _mapping(record, "info")
    key, bucket = _mapping(info, "key"), _mapping(info, "bucket")
    attrs = _mapping(info, "attrs") if info.get("attrs") else {}
    name = _string(record, "event")
    if name not in _PULL_EVENT_NAMES:
        raise InputRefused(f"expected one of {', '.join(_PULL_EVENT_NAMES)} as event, seen {name!r}")
    instance = _optional_string(key, "instance")
    # A deletion carries the mtime of what was deleted, which says nothing about when.
    modified = _optional_string(attrs, "mtime")
    times = {"created": modified, "happened": _string(record, "timestamp")}
    ordering = "created" if modified and name == "OBJECT_CREATE" else "happened"
    return ObjectEvent(
        name=_PULL_EVENT_NAMES[name],
        event_source=CEPH,
        region="",
        object=ObjectRef(
            bucket=_string(bucket, "name"),
            key=_string(key, "name"),
            version_id=None if instance in ("", "null") else instance,
        ),
        time=_time(times, ordering),
        sequencer=None,
        request_id="",
        stamps=(modified, times["happened"]),
        record=record,
    )


def _decoded_key(event_source: str, key: str) -> str:
    """AWS and MinIO write the key as a URL query does, RGW writes it raw: a blanket decoding corrupts RGW's."""
    if event_source == CEPH:
        return key
    if event_source in (AWS, MINIO):
        try:
            return unquote_plus(key, errors="strict")
        except UnicodeDecodeError:
            raise InputRefused(f"expected a URL-encoded UTF-8 key from {event_source}, seen {key!r}") from None
    raise InputRefused(f"expected eventSource {AWS}, {CEPH} or {MINIO}, seen {event_source!r}")


def _sequencer(event_source: str, text: str) -> int | None:
    """A number that grows: RGW's is little-endian seconds and nanoseconds, the others' is big-endian hex.

    AWS compares sequencers of different length after padding the shorter with zeros on the right.
    """
    if not text:
        return None
    if not _SEQUENCER.fullmatch(text):
        raise InputRefused(f"expected a sequencer of at most 32 hex digits, seen {text!r:.80}")
    if event_source != CEPH:
        return int(text.ljust(32, "0"), 16)
    packed = bytes.fromhex(text.rjust(len(text) + len(text) % 2, "0"))
    seconds, nanoseconds = packed[:4], packed[4:]
    return int.from_bytes(seconds, "little") * 1_000_000_000 + int.from_bytes(nanoseconds, "little")


def _request_id(responses: dict[str, Any]) -> str:
    request, host = (responses.get(name) for name in ("x-amz-request-id", "x-amz-id-2"))
    return f"{request}.{host or ''}" if request else ""


def _version_id(described: dict[str, Any]) -> str | None:
    version = _optional_string(described, "versionId")
    return None if version in ("", "null") else version


def _size(described: dict[str, Any]) -> int | None:
    size = described.get("size")
    return size if isinstance(size, int) and size >= 0 else None


def _records(document: Any) -> list[Any]:
    records = document.get("Records") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise InputRefused("expected an S3 notification with a list of Records")
    return records


def _mapping(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise InputRefused(f"expected an object at {name} of an event record, seen {type(value).__name__}")
    return value


def _string(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not value:
        raise InputRefused(f"expected text at {name} of an event record, seen {value!r:.80}")
    return value


def _optional_string(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputRefused(f"expected text at {name} of an event record, seen {value!r:.80}")
    return value


def _time(parent: dict[str, Any], name: str) -> datetime:
    text = _string(parent, name)
    try:
        return parse_time(text)
    except ValueError:
        raise InputRefused(f"expected an RFC 3339 time at {name} of an event record, seen {text!r:.80}") from None


def _digest(*parts: str) -> str:
    # Each part is preceded by its length, so that no two lists of parts read the same.
    packed = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hashlib.sha256(packed).hexdigest()
