"""Whether a request is a webhook that the registry sent just now, and what it announces; no I/O.

MLflow signs as Standard Webhooks does: `X-MLflow-Signature: v1,<base64>` is the HMAC-SHA256 of
`<X-MLflow-Delivery-Id>.<X-MLflow-Timestamp>.<body>`, the timestamp in seconds of Unix time.

    InputRefused            400  no webhook of a registry
    ├── NotSigned           401  the signature or the time is wrong
    ├── ReceivedBefore      409  a delivery that comes again; MLflow does not try again after it
    └── PayloadTooLarge     413  (core) more bytes than the limit
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from whimbrel.core.errors import InputRefused, PayloadTooLarge

SIGNATURE: Final = "x-mlflow-signature"
DELIVERY_ID: Final = "x-mlflow-delivery-id"
TIMESTAMP: Final = "x-mlflow-timestamp"
ALIAS_MOVED: Final = ("model_version_alias", "created")

WINDOW_SECONDS: Final = 300
MAX_BODY_BYTES: Final = 64 * 1024
REMEMBERED: Final = 10_000
_DELIVERY_ID = re.compile(r"[!-~]{1,200}")
_UNIX_TIME = re.compile(r"\d{1,12}")


class NotSigned(InputRefused):
    status = 401


class ReceivedBefore(InputRefused):
    status = 409


@dataclass(frozen=True, slots=True)
class MovedAlias:
    """Created or moved: MLflow calls both created."""

    model: str
    alias: str
    version: str


class Verification:
    """Of one receiver. Remembers the deliveries of twice the window, the newest REMEMBERED at most."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._seen: dict[str, float] = {}

    def announced(self, headers: Mapping[str, str], body: bytes, now: float) -> MovedAlias | None:
        """What a genuine request announces, None for an event about something else. `now`: Unix time.

        `headers` have their names in lower case. Raises InputRefused, NotSigned, ReceivedBefore and PayloadTooLarge.
        """
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"expected a webhook of at most {MAX_BODY_BYTES} bytes, seen more")
        delivery, sent = headers.get(DELIVERY_ID, ""), headers.get(TIMESTAMP, "")
        if not _DELIVERY_ID.fullmatch(delivery) or not _UNIX_TIME.fullmatch(sent):
            raise InputRefused(f"expected the headers {DELIVERY_ID} and {TIMESTAMP} of a webhook, seen none or others")
        given = headers.get(SIGNATURE, "").encode("latin-1")
        if not hmac.compare_digest(given, signature(self._secret, delivery, sent, body).encode()):
            raise NotSigned(
                f"expected {SIGNATURE} by the secret of this receiver, seen {'another' if given else 'none'}; "
                "give both sides one secret: 'whimbrel model webhook create'"
            )
        if abs(now - int(sent)) > WINDOW_SECONDS:
            raise NotSigned(f"expected a webhook sent within {WINDOW_SECONDS} s, seen one sent at {sent}")
        moved = _moved_alias(body)
        self._remember(delivery, now)
        return moved

    def _remember(self, delivery: str, now: float) -> None:
        if delivery in self._seen:
            raise ReceivedBefore(f"expected each delivery once, seen {delivery} again")
        self._seen[delivery] = now
        for oldest in list(self._seen):
            if len(self._seen) <= REMEMBERED and self._seen[oldest] >= now - 2 * WINDOW_SECONDS:
                break
            del self._seen[oldest]


def signature(secret: bytes, delivery: str, sent: str, body: bytes) -> str:
    signed = b".".join((delivery.encode(), sent.encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _moved_alias(body: bytes) -> MovedAlias | None:
    document = _object(body)
    if (document.get("entity"), document.get("action")) != ALIAS_MOVED:
        return None
    data = document.get("data")
    named = [data.get(field) for field in ("name", "alias", "version")] if isinstance(data, dict) else []
    texts = [each for each in named if isinstance(each, str)]
    if len(texts) != 3:
        raise InputRefused("expected name, alias and version as the data of a moved alias, seen others")
    return MovedAlias(*texts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InputRefused("expected a JSON object as a webhook's body, seen none")
    return document
