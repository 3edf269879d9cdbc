"""What Knative's broker decides about one delivery: the outcome, the waits, the dead letter, the hops; no I/O."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from whimbrel.core.cloudevent import Event, format_time, is_cloudevent, parse
from whimbrel.core.errors import InputRefused, is_retried
from whimbrel.local.broker.config import Delivery

ARRIVAL_TIME = "knativearrivaltime"
TTL = "knativebrokerttl"
DEFAULT_TTL = 255  # replies in a row
ERROR_DESTINATION = "knativeerrordest"
ERROR_CODE = "knativeerrorcode"
ERROR_DATA = "knativeerrordata"
ATTEMPTS = "whimbrelattempts"

LONGEST_WAIT_SECONDS = 3600.0
ERROR_DATA_BYTES = 768  # of the body: 1024 in base64, Knative's limit for the attribute

_NO_REPLY = frozenset({202, 204})
_WITH_RETRY_AFTER = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Accepted:
    """`reply` is the event that the subscriber answered with."""

    reply: Event | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """One attempt that failed. `status` is None where Knative tells none: no answer, or one that is no CloudEvent."""

    reason: str
    retried: bool = True
    status: int | None = None
    body: bytes = b""
    retry_after: str | None = None


Outcome = Accepted | Failed


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """What the answer of a subscriber means. `headers` have lower-case names."""
    if not 200 <= status < 300:
        return Failed(f"status {status}", is_retried(status), status, body, headers.get("retry-after"))
    if status in _NO_REPLY:
        return Accepted()
    if is_cloudevent(headers):
        return _reply(headers, body)
    if body:
        return Failed(f"status {status} with a body that is not a CloudEvent")
    return Accepted()


def _reply(headers: Mapping[str, str], body: bytes) -> Outcome:
    try:
        events = parse(headers, body)
    except InputRefused as error:
        return Failed(f"a reply that is not a CloudEvent: {error}")
    if len(events) != 1:
        return Failed(f"a reply of {len(events)} events, expected one")
    return Accepted(events[0])


def attempts(delivery: Delivery) -> int:
    return delivery.retry + 1


def wait_seconds(delivery: Delivery, retries: int, failure: Failed, now: datetime) -> float:
    """The wait before the next attempt, `retries` retries having been made.

    exponential: delay * 2^retries, linear: delay * retries. A longer Retry-After of a 429 or 503 is kept, up to
    retryAfterMax, and only where that is set.
    """
    factor = 2.0 ** min(retries, 64) if delivery.backoff_policy == "exponential" else float(retries)
    wait = min(delivery.backoff_delay_seconds * factor, LONGEST_WAIT_SECONDS)
    if delivery.retry_after_max_seconds is None or failure.status not in _WITH_RETRY_AFTER:
        return wait
    asked = min(_retry_after_seconds(failure.retry_after, now), delivery.retry_after_max_seconds, LONGEST_WAIT_SECONDS)
    return max(wait, asked)


def _retry_after_seconds(text: str | None, now: datetime) -> float:
    """Seconds or an HTTP date; what is neither asks for nothing."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() - now.timestamp()


def arrived(event: Event, now: datetime) -> Event:
    """The event as the broker keeps it: stamped, with one hop less than it came with.

    Raises InputRefused when no hop is left, it went round too often, and for what no header can carry on.
    """
    if not (event.datacontenttype or "").isascii() or not (event.datacontenttype or "").isprintable():
        raise InputRefused(f"expected printable ASCII as datacontenttype, seen {event.datacontenttype!r:.80}")
    ttl = _ttl(event)
    ttl = DEFAULT_TTL if ttl is None else ttl - 1
    if ttl <= 0:
        raise InputRefused(
            f"event {event.id!r} of type {event.type!r} is the reply of a reply more than {DEFAULT_TTL} times; "
            "filter the triggers by type, so that no reply reaches its own subscriber"
        )
    return event.with_extensions({ARRIVAL_TIME: format_time(now), TTL: str(ttl)})


def for_subscriber(event: Event) -> Event:
    return event.without_extensions([TTL])


def as_reply(reply: Event, to: Event) -> Event:
    """A reply goes on with the hops that its cause has left, whatever it claims itself."""
    return reply.with_extensions({TTL: to.extensions.get(TTL, str(DEFAULT_TTL))})


def dead_letter(event: Event, destination: str, failure: Failed, attempts_made: int) -> Event:
    """The original event and, where there was an answer, whose, its status and the start of its body in base64."""
    extensions = {ATTEMPTS: str(attempts_made)}
    if failure.status is not None:
        extensions |= {ERROR_DESTINATION: destination, ERROR_CODE: str(failure.status)}
        if failure.body:
            extensions[ERROR_DATA] = base64.b64encode(failure.body[:ERROR_DATA_BYTES]).decode()
    return event.without_extensions([ERROR_DESTINATION, ERROR_CODE, ERROR_DATA, ATTEMPTS]).with_extensions(extensions)


def _ttl(event: Event) -> int | None:
    text = event.extensions.get(TTL, "")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() else None
