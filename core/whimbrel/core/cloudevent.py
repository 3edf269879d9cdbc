"""CloudEvents 1.0 over HTTP: binary, structured and batched, in and out; no I/O.

The parsing, and the writing of JSON, is the `cloudevents` library's. What it leaves to its caller is here: the
percent-encoding of header values (HTTP protocol binding 1.0.2, section 3.1.3.2), batches, and one error that names
every fault.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from cloudevents.conversion import to_structured as library_to_structured
from cloudevents.exceptions import GenericException
from cloudevents.http import CloudEvent, from_http

from whimbrel.core.errors import InputRefused

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
MAX_BATCH_EVENTS = 1000

_CORE_ATTRIBUTES = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "specversion")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_MEDIA_TYPE = re.compile(r"[ -~]*")
_UNSAFE_IN_HEADERS = re.compile(r'[^!-~]+|["%]+')
_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,64}")


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent. `data` is the payload's bytes, exactly as they came; `extensions` have lower-case names."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: bytes | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = [f"{name}: empty" for name in ("id", "source", "type") if not getattr(self, name)]
        faults += [
            f"extension {name!r}: expected 1 to 64 characters of a-z and 0-9"
            for name in self.extensions
            if not _EXTENSION_NAME.fullmatch(name) or name in _CORE_ATTRIBUTES or name == "data"
        ]
        faults += [f"{name}: not UTF-8" for name, value in self._texts() if not (value.isascii() or _is_utf8(value))]
        if self.datacontenttype is not None and not _MEDIA_TYPE.fullmatch(self.datacontenttype):
            faults.append("datacontenttype: expected printable ASCII")  # it is a header as it stands
        if faults:
            raise InputRefused("expected a CloudEvent 1.0; " + "; ".join(faults))

    def _texts(self) -> Iterator[tuple[str, str]]:
        for name in ("id", "source", "type", "subject", "datacontenttype", "dataschema"):
            yield name, getattr(self, name) or ""
        yield from self.extensions.items()

    def json(self) -> Any:
        """The payload as JSON. Raises InputRefused when it is none."""
        try:
            return json.loads(self.data or b"")
        except (ValueError, RecursionError):
            raise InputRefused(f"expected JSON in the data of event {self.id!r}") from None

    def with_extensions(self, extensions: Mapping[str, str]) -> Event:
        """A copy with these extensions added, or replaced."""
        return replace(self, extensions={**self.extensions, **extensions})

    def without_extensions(self, names: Iterable[str]) -> Event:
        left_out = set(names)
        return replace(self, extensions={k: v for k, v in self.extensions.items() if k not in left_out})

    def attributes(self) -> dict[str, str]:
        """All attributes that are set, as strings: what a Trigger's filter sees."""
        values = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": None if self.time is None else format_time(self.time),
            "datacontenttype": self.datacontenttype,
            "dataschema": self.dataschema,
        }
        return {name: value for name, value in values.items() if value is not None} | dict(self.extensions)


def json_event(*, data: Any, **attributes: Any) -> Event:
    """An event whose payload is JSON."""
    return Event(**attributes, datacontenttype="application/json", data=_json_bytes(data))


def is_cloudevent(headers: Mapping[str, str]) -> bool:
    """Whether an HTTP message with these headers carries one or more CloudEvents, in any of the three modes."""
    lower = {name.lower(): value for name, value in headers.items()}
    return "ce-specversion" in lower or _media_type(lower) in (STRUCTURED, BATCHED)


def parse(headers: Mapping[str, str], body: bytes) -> list[Event]:
    """Every event in an HTTP message; one unless the content mode is batched.

    Raises InputRefused, naming the attribute, for what is not CloudEvents 1.0.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    media_type = _media_type(lower)
    if media_type == BATCHED:
        return _parse_batch(body)
    if media_type == STRUCTURED:
        return [_parse_structured(body)]
    if "ce-specversion" in lower:
        return [_parse_binary(lower, body)]
    raise InputRefused(
        f"expected a CloudEvent: ce-* headers, {STRUCTURED} or {BATCHED}; seen content-type {media_type or 'none'}"
    )


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body of the binary content mode."""
    # Written here and not by the library: a source does little else for each event, and that takes ten times as long.
    attributes = event.attributes()
    content_type = attributes.pop("datacontenttype", None)
    headers = {f"ce-{name}": _encode_header(value) for name, value in attributes.items()}
    if content_type is not None:
        headers["content-type"] = content_type
    return headers, event.data or b""


def structured(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body of the structured content mode, data as JSON, or base64 where it is not JSON."""
    _, body = library_to_structured(_library_event(event, json_data=True))
    return {"content-type": STRUCTURED}, body


def batched(events: Iterable[Event]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the batched content mode."""
    return {"content-type": BATCHED}, b"[" + b",".join(structured(event)[1] for event in events) + b"]"


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """RFC 3339, an offset required; raises ValueError."""
    time = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    if time.tzinfo is None:
        raise ValueError(f"no offset in {text!r}")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"before the first year or after the last in UTC: {text!r}") from None


def _parse_binary(lower: Mapping[str, str], body: bytes) -> Event:
    decoded = {name: _decode_header(value) if name.startswith("ce-") else value for name, value in lower.items()}
    event = _from_library(decoded, body, timed="ce-time" in decoded)
    return replace(event, data=body or None)


def _parse_structured(body: bytes) -> Event:
    document = _json_document(body)
    if not isinstance(document, dict):
        raise InputRefused(f"expected a JSON object as structured CloudEvent, seen {type(document).__name__}")
    return _from_document(document)


def _parse_batch(body: bytes) -> list[Event]:
    documents = _json_document(body)
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise InputRefused("expected a JSON array of objects as a batch of CloudEvents")
    if len(documents) > MAX_BATCH_EVENTS:
        raise InputRefused(f"expected at most {MAX_BATCH_EVENTS} events a batch, seen {len(documents)}")
    return [_from_document(document) for document in documents]


def _json_document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InputRefused("expected JSON in a structured or batched CloudEvent") from None


def _from_document(document: dict[str, Any]) -> Event:
    attributes = {name: value for name, value in document.items() if name not in ("data", "data_base64")}
    wrong = [name for name, value in attributes.items() if value is None or isinstance(value, (dict, list))]
    if wrong:
        raise InputRefused(f"expected simple values as CloudEvent attributes; {', '.join(wrong)}: is none")
    body = json.dumps(attributes).encode()
    event = _from_library({"content-type": STRUCTURED}, body, timed="time" in document)
    if "data_base64" in document:
        try:
            return replace(event, data=base64.b64decode(document["data_base64"], validate=True))
        except (ValueError, TypeError):
            raise InputRefused(f"expected base64 in data_base64 of event {event.id!r}") from None
    if "data" not in document or document["data"] is None:
        return replace(event, data=None)
    text = document["data"] if isinstance(document["data"], str) and not _is_json(event) else None
    if text is not None and not _is_utf8(text):
        raise InputRefused(f"expected UTF-8 in the data of event {event.id!r}")
    payload = _json_bytes(document["data"]) if text is None else text.encode()
    return replace(event, data=payload, datacontenttype=event.datacontenttype or "application/json")


def _from_library(headers: Mapping[str, str], body: bytes, *, timed: bool) -> Event:
    try:
        parsed = from_http(dict(headers), body, data_unmarshaller=_unread)
    except (GenericException, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputRefused(f"expected a CloudEvent 1.0; {error}") from None
    attributes = {name: _text(parsed[name]) for name in parsed if parsed[name] is not None}
    if attributes.pop("specversion", None) != "1.0":
        raise InputRefused("expected a CloudEvent of specversion 1.0")
    time = attributes.pop("time", None)
    try:
        parsed_time = parse_time(time) if time and timed else None  # the library fills in an absent time
    except ValueError:
        raise InputRefused(f"expected an RFC 3339 time in a CloudEvent, seen {time!r}") from None
    data = parsed.get_data()
    known = {name: attributes.pop(name) for name in _CORE_ATTRIBUTES if name in attributes}
    missing = [name for name in ("id", "source", "type") if not known.get(name)]
    if missing:
        raise InputRefused(f"expected a CloudEvent 1.0; missing {', '.join(missing)}")
    return Event(
        **known,
        time=parsed_time,
        data=data if isinstance(data, bytes) else None,
        extensions=attributes,
    )


def _library_event(event: Event, *, json_data: bool = False) -> CloudEvent:
    data: Any = event.data
    if json_data and data is not None and _is_json(event):
        # What is said to be JSON and is not is carried as base64, byte for byte.
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(data)
    library_event = CloudEvent(event.attributes(), data)
    if event.time is None:
        del library_event["time"]  # the library fills it in; the event goes out as it came
    return library_event


def _json_bytes(document: Any) -> bytes:
    """In UTF-8; what UTF-8 cannot hold stays escaped, as it came."""
    try:
        return _COMPACT.encode(document).encode()
    except UnicodeEncodeError:
        return json.dumps(document, separators=(",", ":")).encode()


def _is_utf8(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no header and no object key can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(event: Event) -> bool:
    media_type = (event.datacontenttype or "application/json").split(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _media_type(lower: Mapping[str, str]) -> str:
    return lower.get("content-type", "").split(";")[0].strip().lower()


def _unread(data: Any) -> Any:
    return data


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _encode_header(value: str) -> str:
    return _UNSAFE_IN_HEADERS.sub(_percent_encode, value)


def _percent_encode(characters: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in characters[0].encode())


def _decode_header(value: str) -> str:
    # Servers hand header bytes over as latin-1; a sender that did not percent-encode meant UTF-8.
    with contextlib.suppress(UnicodeEncodeError, UnicodeDecodeError):
        value = value.encode("latin-1").decode()
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InputRefused(f"expected percent-encoded UTF-8 in a CloudEvent header, seen {value!r}") from None
