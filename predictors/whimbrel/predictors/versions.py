"""The resident versions as a client sees them: index, metadata, and the report beside the pointer."""

from __future__ import annotations

from typing import Any

from whimbrel.predictors.residents import CANDIDATE, CURRENT, LOADING, READY, UNAVAILABLE, Residents
from whimbrel.predictors.sources import Source


def rows(residents: Residents) -> list[dict[str, Any]]:
    """Each version at hand, on its way, or failed last: its state, role, share of the requests, digest and dtype."""
    found = [
        {
            "version": resident.version,
            "state": READY,
            "reason": "",
            "role": role,
            "percent": _percent(residents, role),
            "digest": resident.description.digest,
            "memory_bytes": resident.needed_bytes,
            "dtype": resident.computing.dtype,
            "code": resident.computing.code,
        }
        for role, resident in residents.roles.items()
    ]
    if residents.loading is not None:
        found.append(_absent(residents.loading, LOADING, ""))
    elif residents.failure is not None:
        found.append(_absent(residents.failure.source, UNAVAILABLE, residents.failure.reason))
    return found


def _percent(residents: Residents, role: str) -> float:
    candidate = residents.candidate_percent if CANDIDATE in residents.roles else 0.0
    return {CURRENT: 100.0 - candidate, CANDIDATE: candidate}.get(role, 0.0)


def _absent(source: Source, state: str, reason: str) -> dict[str, Any]:
    return {
        "version": source.version or "",
        "state": state,
        "reason": reason,
        "role": None,
        "percent": 0.0,
        "digest": source.digest,
        "memory_bytes": 0,
        "dtype": None,
        "code": None,
    }
