"""ISO-8601 durations as Knative writes them, and how long a delivery may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from whimbrel.kube.lint.rule import number

_PATTERN = re.compile(
    r"P(?=.)((?P<days>\d+(\.\d+)?)D)?"
    r"(T(?=.)((?P<hours>\d+(\.\d+)?)H)?((?P<minutes>\d+(\.\d+)?)M)?((?P<seconds>\d+(\.\d+)?)S)?)?"
)
_UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def seconds(text: Any) -> float | None:
    """The seconds of `PT1M30S`; None for what is no duration."""
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    return sum(float(match[unit]) * factor for unit, factor in _UNITS.items() if match[unit])


def longest(delivery: Mapping[str, Any]) -> float | None:
    """Seconds that all attempts and pauses of one delivery take at most; None where a number is missing or wrong."""
    retries, each = number(delivery.get("retry")), seconds(delivery.get("timeout"))
    pause = seconds(delivery.get("backoffDelay", "PT0S"))
    if retries is None or each is None or pause is None or retries > 64:
        return None
    growing = delivery.get("backoffPolicy", "exponential") == "exponential"
    pauses = sum(pause * (2**attempt if growing else attempt + 1) for attempt in range(int(retries)))
    return (retries + 1) * each + pauses
