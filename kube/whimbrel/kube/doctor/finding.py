"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, or may; worth a look
    MISSING = "missing"  # without it images get no labels
    UNKNOWN = "unknown"  # could not be looked at


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is a command, or what to do; empty where nothing is to be done."""

    check: str
    state: State
    seen: str
    remedy: str = ""


def ok(check: str, seen: str) -> Finding:
    return Finding(check, State.OK, seen)


def warning(check: str, seen: str, remedy: str) -> Finding:
    return Finding(check, State.WARNING, seen, remedy)


def missing(check: str, seen: str, remedy: str) -> Finding:
    return Finding(check, State.MISSING, seen, remedy)


def unknown(check: str, seen: str, remedy: str = "") -> Finding:
    return Finding(check, State.UNKNOWN, seen, remedy)
