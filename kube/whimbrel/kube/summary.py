"""A resource in one line: is it ready, what does it do, why is it not; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from whimbrel.kube.conditions import conditions, has_readiness, why_not_ready
from whimbrel.kube.inference import Share, read_shares, read_status


@dataclass(frozen=True, slots=True)
class Summary:
    """`ready` is True, False, Unknown, or empty for a kind without conditions."""

    kind: str
    namespace: str
    name: str
    ready: str
    does: str
    why: str
    created: str


def summarise(found: Mapping[str, Any]) -> Summary:
    metadata = found.get("metadata") or {}
    judged = has_readiness(found)
    reason = why_not_ready(found) if judged else None
    ready = next((each.status for each in conditions(found) if each.type == "Ready"), "Unknown" if judged else "")
    return Summary(
        kind=str(found.get("kind", "")),
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        ready="Unknown" if ready == "True" and reason is not None else ready,
        does=_does(found),
        why="" if reason is None else str(reason),
        created=str(metadata.get("creationTimestamp") or ""),
    )


def shares_line(shares: tuple[Share, ...]) -> str:
    """`digits-predictor-00002 80%, digits-predictor-00003 20%`, each revision once."""
    revisions = dict.fromkeys(share.revision for share in shares)
    percents = {name: sum(share.percent for share in shares if share.revision == name) for name in revisions}
    return ", ".join(f"{name} {percent}%" for name, percent in percents.items())


def age(created: str, now: datetime) -> str:
    """How long ago, in the one unit that fits; empty for what is no time."""
    try:
        seconds = int((now - datetime.fromisoformat(created)).total_seconds())
    except (ValueError, TypeError):
        return ""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def now() -> datetime:
    return datetime.now(UTC)


def _does(found: Mapping[str, Any]) -> str:
    kind, spec, status = str(found.get("kind")), found.get("spec") or {}, found.get("status") or {}
    url = str(status.get("url") or "")
    said: Mapping[str, tuple[str, ...]] = {
        "InferenceService": (url, shares_line(read_status(found).predictor.traffic)),
        "Service": (url, shares_line(read_shares(status))),
        "Broker": (str((status.get("address") or {}).get("url") or ""),),
        "Trigger": (f"{spec.get('broker', '')} -> {destination(spec.get('subscriber') or {})}",),
        "ContainerSource": (f"-> {destination(spec.get('sink') or {})}",),
        "SinkBinding": (f"-> {destination(spec.get('sink') or {})}",),
        "ModelRollout": (str(status.get("phase") or ""),),
    }
    return "; ".join(part for part in said.get(kind, ()) if part)


def destination(found: Mapping[str, Any]) -> str:
    """`InferenceService/digits/events`, or the URI."""
    ref, uri = found.get("ref") or {}, str(found.get("uri") or "")
    return f"{ref.get('kind')}/{ref.get('name')}{uri}" if ref else uri
