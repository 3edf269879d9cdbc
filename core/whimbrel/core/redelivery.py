"""The extensions by which an event says that it may have been delivered before, so that its answer may be known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DELIVERIES: Final = "whimbreldeliveries"  # how often the upstream handed it out, where that is more than once
REPLAY: Final = "whimbrelreplay"  # how often it was sent again by hand


def is_redelivered(extensions: Mapping[str, str]) -> bool:
    return any(extensions.get(name, "0") not in ("", "0") for name in (DELIVERIES, REPLAY))
