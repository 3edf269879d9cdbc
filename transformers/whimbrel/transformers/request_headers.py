"""The headers that a request to a predictor carries, whatever the protocol: what follows it through logs and traces."""

from __future__ import annotations

from whimbrel.core import tracing
from whimbrel.core.logs import bound_field
from whimbrel.core.tensors import REQUEST_ID_HEADER


def request_headers(key: str) -> dict[str, str]:
    """The id of the request at hand, as the logs have it, else `key`; none that no header can carry.

    It is not the key: a gateway makes a new one for each delivery of an event.
    """
    request_id = bound_field("request_id") or key
    followed = {REQUEST_ID_HEADER: request_id} if request_id.isascii() and request_id.isprintable() else {}
    return followed | tracing.current()
