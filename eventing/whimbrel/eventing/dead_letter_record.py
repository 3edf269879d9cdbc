"""From an event with Knative's error extensions to the record that is kept of it; pure."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from datetime import datetime
from typing import Final

from whimbrel.core.cloudevent import Event, parse, structured
from whimbrel.core.redelivery import REPLAY
from whimbrel.core.results import DeadLetter, DeadLetterError
from whimbrel.eventing.dead_letter_extensions import (
    ADDED,
    ATTEMPTS,
    ERROR_CODE,
    ERROR_DATA,
    ERROR_DESTINATION,
)
from whimbrel.eventing.unreadable import UNREADABLE_TYPE, error_extensions

_MAX_MESSAGE: Final = 4096  # characters
_SERVERS_FAULT: Final = 500
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


def dead_letter_of(event: Event, received: datetime) -> DeadLetter:
    """The record of an event, which is kept without what the broker added, so that it can be sent again."""
    error_data, code = event.extensions.get(ERROR_DATA), _number(event.extensions.get(ERROR_CODE))
    reason, message = (_unicode(text) for text in error_text(error_data))
    return DeadLetter(
        event=json.loads(structured(event.without_extensions(ADDED))[1]),
        error=DeadLetterError(
            code=code,
            destination=event.extensions.get(ERROR_DESTINATION),
            reason=reason,
            message=message,
            model_digest=_model_at_fault(error_data, code),
        ),
        attempts=_number(event.extensions.get(ATTEMPTS)),
        replays=_number(event.extensions.get(REPLAY)) or 0,
        received=received,
    )


def replay_event(letter: DeadLetter) -> Event:
    """The event of a dead letter, to be sent once more. Raises InputRefused when the record holds none."""
    body = json.dumps(letter.event).encode()
    (event,) = parse({"content-type": "application/cloudevents+json"}, body)
    event = event.with_extensions({REPLAY: str(letter.replays + 1)})
    if event.type != UNREADABLE_TYPE:
        return event
    # It goes straight to the dead-letter sink again: nobody on the way would say anew what is wrong with it.
    answer = {"error": letter.error.message or "", "reason": letter.error.reason}
    return event.with_extensions(error_extensions(letter.error.code, answer))


def error_text(error_data: str | None) -> tuple[str | None, str | None]:
    """Reason and message in `knativeerrordata`: our error body's where it is one, even cut short, else the text."""
    if not error_data:
        return None, None
    text = _decoded(error_data)
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(text)
        if isinstance(document, dict):
            reason, message = document.get("reason"), document.get("error")
            if isinstance(message, str):
                return (reason if isinstance(reason, str) else None), message[:_MAX_MESSAGE]
    return _cut_string(text, "reason"), (_cut_string(text, "error") or text)[:_MAX_MESSAGE]


def _model_at_fault(error_data: str | None, code: int | None) -> str | None:
    """The package whose failure it was. What is no server's fault is no package's either."""
    if not error_data or code is None or code < _SERVERS_FAULT:
        return None
    digest = _cut_string(_decoded(error_data), "model_digest")
    return digest if digest and _DIGEST.fullmatch(digest) else None


def _decoded(error_data: str) -> str:
    try:
        raw = base64.b64decode(error_data[: len(error_data) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return error_data
    return raw.decode(errors="replace")


def _cut_string(text: str, name: str) -> str | None:
    """The value of a member in JSON that may end anywhere."""
    found = re.search(rf'"{name}"\s*:\s*"((?:[^"\\]|\\.)*)', text)
    if found is None or not text.lstrip().startswith("{"):
        return None
    with contextlib.suppress(ValueError):
        return str(json.loads(f'"{found[1]}"', strict=False))
    return found[1]


def _unicode(text: str | None) -> str | None:
    """JSON can escape half a surrogate pair, which no file can hold."""
    return None if text is None else text.encode(errors="replace").decode()


def _number(text: str | None) -> int | None:
    return int(text) if text and _NUMBER.fullmatch(text) else None
