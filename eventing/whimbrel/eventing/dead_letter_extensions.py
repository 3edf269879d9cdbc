"""The extensions by which a dead letter says what went wrong: Knative's three, and ours."""

from __future__ import annotations

from typing import Final

from whimbrel.core.redelivery import DELIVERIES, REPLAY

# https://knative.dev/docs/eventing/event-delivery/
ERROR_DESTINATION: Final = "knativeerrordest"
ERROR_CODE: Final = "knativeerrorcode"
ERROR_DATA: Final = "knativeerrordata"  # base64 of the head of the answer's body
MAX_ERROR_DATA: Final = 1024  # bytes before the base64

ATTEMPTS: Final = "whimbrelattempts"  # how often it was tried, where the sender tells

# What a broker adds on the way; an event that is sent again gets its own.
_BROKER_OWN: Final = ("knativearrivaltime", "knativebrokerttl")

ADDED: Final = (ERROR_DESTINATION, ERROR_CODE, ERROR_DATA, ATTEMPTS, DELIVERIES, REPLAY, *_BROKER_OWN)
