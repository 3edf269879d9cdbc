"""What a source or the dead-letter sink could not read, as a CloudEvent for the dead letters."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused
from whimbrel.eventing.dead_letter_extensions import ERROR_CODE, ERROR_DATA, MAX_ERROR_DATA
from whimbrel.eventing.upstream import Unreadable

UNREADABLE_TYPE: Final = "dev.whimbrel.unreadable.v1"
DEAD_LETTER_SINK_URI: Final = "/whimbrel/sinks/dead-letters"

_UNKEPT_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
_VARYING_HEADERS: Final = frozenset({"host", "user-agent", "date", "traceparent", "tracestate"})


def unreadable_event(unreadable: Unreadable, upstream_uri: str) -> Event:
    """The raw bytes as data, the reason in Knative's extensions; the same id however often it comes."""
    return Event(
        id=hashlib.sha256(unreadable.raw).hexdigest(),
        source=upstream_uri,
        type=UNREADABLE_TYPE,
        datacontenttype="application/octet-stream",
        data=unreadable.raw,
        extensions=error_extensions(unreadable.error.status, unreadable.error.body()),
    )


def unreadable_request(headers: Mapping[str, str], body: bytes, error: InputRefused | ValueError) -> Event:
    """A request to the dead-letter sink that holds no CloudEvent, as an HTTP message without its credentials."""
    lines = sorted(f"{name}: {value}" for name, value in headers.items() if name not in _UNKEPT_HEADERS)
    stable = [line for line in lines if line.split(":")[0] not in _VARYING_HEADERS]
    refusal = error if isinstance(error, InputRefused) else InputRefused(f"expected Unicode text, seen {error}")
    return Event(
        id=hashlib.sha256("\n".join(stable).encode() + b"\n\n" + body).hexdigest(),
        source=DEAD_LETTER_SINK_URI,
        type=UNREADABLE_TYPE,
        datacontenttype="message/http",
        data="".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body,
        extensions=error_extensions(refusal.status, refusal.body()),
    )


def error_extensions(status: int | None, answer: Mapping[str, Any]) -> dict[str, str]:
    """What went wrong, as Knative's broker tells it to a dead-letter sink."""
    data = base64.b64encode(json.dumps(answer).encode()[:MAX_ERROR_DATA]).decode()
    return {ERROR_DATA: data} | ({} if status is None else {ERROR_CODE: str(status)})
