"""A moment as a person writes it: a time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from whimbrel.core.errors import InputRefused

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime) -> datetime:
    """`90s`, `30m`, `2h`, `7d`, `2w` before now, or an ISO 8601 time (local, where it names no offset)."""
    ago = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if ago is not None:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputRefused(f"expected a time such as 2026-01-31T12:00 or 30m, 2h, 7d ago, seen {text!r}") from None
