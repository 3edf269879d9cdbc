"""ISO-8601 durations, as Knative's `backoffDelay`, `timeout` and `retryAfterMax` are written."""

from __future__ import annotations

import re

_DURATION = re.compile(
    r"P(?!$)(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?!$)(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def parse_duration(text: str) -> float:
    """Seconds. Months and years have no fixed length and are refused; raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"expected an ISO-8601 duration of days, hours, minutes and seconds (PT0.5S), seen {text!r}")
    return sum(float(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)
