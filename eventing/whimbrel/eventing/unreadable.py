"""What a source could not read, as a CloudEvent for the dead letters."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Final

from whimbrel.core.cloudevent import Event
from whimbrel.eventing.dead_letter_extensions import ERROR_CODE, ERROR_DATA, MAX_ERROR_DATA
from whimbrel.eventing.upstream import Unreadable

UNREADABLE_TYPE: Final = "dev.whimbrel.unreadable.v1"


def unreadable_event(unreadable: Unreadable, upstream_uri: str) -> Event:
    """The raw bytes as data, the reason in Knative's extensions; the same id however often it comes."""
    answer = json.dumps(unreadable.error.body()).encode()
    return Event(
        id=hashlib.sha256(unreadable.raw).hexdigest(),
        source=upstream_uri,
        type=UNREADABLE_TYPE,
        datacontenttype="application/octet-stream",
        data=unreadable.raw,
        extensions={
            ERROR_CODE: str(unreadable.error.status),
            ERROR_DATA: base64.b64encode(answer[:MAX_ERROR_DATA]).decode(),
        },
    )
