"""Posts one event to a broker by hand and says whether it took it: what replay and reconcile share. Blocking."""

from __future__ import annotations

import httpx

from whimbrel.core.cloudevent import Event, binary
from whimbrel.core.errors import InputRefused, Unavailable, is_retried
from whimbrel.eventing.patience import retry_after_seconds

# The broker answers when it has delivered, all retries included; Knative's longest timeout of one is 600 s.
BROKER_TIMEOUT_SECONDS = 3600.0


def post_event(http: httpx.Client, broker: str, event: Event) -> None:
    """Returns once the broker has it. Raises Unavailable when it does not take it now, InputRefused when never."""
    headers, body = binary(event)
    expected = f"expected broker {broker} to take the event"
    try:
        answer = http.post(broker, headers=headers, content=body)
    except httpx.HTTPError as error:
        raise Unavailable(f"{expected}, seen {type(error).__name__}: {error}") from error
    if answer.is_success:
        return
    seen = f"{expected}, seen {answer.status_code} {answer.text[:200]}"
    if is_retried(answer.status_code):
        raise Unavailable(seen, retry_after_seconds=retry_after_seconds(answer.headers.get("retry-after")))
    raise InputRefused(seen)
