"""Conditions in the shape of KServe's and Knative's, with the time of their last change kept; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: Status
    reason: str = ""
    message: str = ""
    info: bool = False  # of severity Info: it does not decide alone

    def written(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": self.type, "status": self.status}
        if self.reason:
            found["reason"] = self.reason
        if self.message:
            found["message"] = self.message
        if self.info:
            found["severity"] = "Info"
        return found


def merged(before: Sequence[Any], wanted: Iterable[Condition], now: str) -> list[dict[str, Any]]:
    """In the order of their types; the time changes where the status does."""
    times = {(each["type"], each["status"]): each.get("lastTransitionTime", now) for each in before}
    found = sorted(wanted, key=lambda each: each.type)
    return [each.written() | {"lastTransitionTime": times.get((each.type, each.status), now)} for each in found]


def together(type_: str, parts: Iterable[Condition], *, info: bool = False, named: bool = False) -> Condition:
    """False with the first that is False, else Unknown with the first that is Unknown, else True.

    `named`: the reason then says which one it was, as KServe's aggregates do.
    """
    listed = list(parts)
    for status in ("False", "Unknown"):
        for part in listed:
            if part.status == status:
                reason = f"{part.type} not ready" if named else part.reason
                return Condition(type_, part.status, reason, "" if named else part.message, info)
    return Condition(type_, "True", info=info)


def read(found: Any, type_: str) -> Condition:
    """One condition of a stored object; Unknown where nobody has said anything."""
    for each in (found or {}).get("status", {}).get("conditions", []):
        if each["type"] == type_:
            return Condition(type_, each["status"], each.get("reason", ""), each.get("message", ""))
    return Condition(type_, "Unknown")


def written_time(now: datetime) -> str:
    """As Kubernetes writes times."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_ready(found: Any) -> bool:
    return read(found, "Ready").status == "True"
