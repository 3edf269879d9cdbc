"""Which revision takes which share of the traffic, by KServe's and Knative's rules; pure.

`canaryTrafficPercent` splits between the latest ready revision and the last one that had all of it. 0 rolls back,
taking the field away promotes. A revision that was never ready has no part in any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LATEST, PREVIOUS = "latest", "prev"  # the tags that KServe gives


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of `traffic`: in a spec `revision` is empty where `latest`; resolved, it is the latest ready one."""

    percent: int
    revision: str = ""
    latest: bool = False
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a component's status remembers; `rolled_out` and `previous` are the last two that had all traffic."""

    created: str = ""
    ready: str = ""
    rolled_out: str = ""
    previous: str = ""


def split(canary_percent: int | None, rollout: Rollout) -> tuple[Target, ...]:
    """The traffic that KServe asks Knative for."""
    if canary_percent is None or not rollout.rolled_out or canary_percent >= 100:
        return (Target(100, latest=True, tag=LATEST),)
    return (
        Target(canary_percent, latest=True, tag=LATEST),
        Target(100 - canary_percent, revision=rollout.rolled_out, tag=PREVIOUS),
    )


def resolved(targets: Iterable[Target], ready: str) -> tuple[Target, ...]:
    """With the latest ready revision filled in; nothing while none has ever been ready."""
    found = tuple(replace(target, revision=ready) if target.latest else target for target in targets)
    return found if all(target.revision for target in found) else ()


def observed(before: Rollout, created: str, ready: str, traffic: Sequence[Target]) -> Rollout:
    """What is remembered once Knative's service reports this; `traffic` is resolved."""
    now = replace(before, created=created, ready=ready)
    latest = next((target for target in traffic if target.latest and target.revision == ready), None)
    if latest is None:
        return now
    if before.rolled_out != ready:
        if latest.percent == 100:
            return replace(now, rolled_out=ready, previous=before.rolled_out)
        return now
    # It had all of the traffic and is to have less of it, though no newer one is there: a rollback.
    share = sum(target.percent for target in traffic if target.revision == ready)
    if created == ready and latest.percent < 100 and share == 100 and before.previous:
        return replace(now, rolled_out=before.previous)
    return now


def settled(
    canary_percent: int | None, before: Rollout, created: str, ready: str
) -> tuple[Rollout, tuple[Target, ...], tuple[Target, ...]]:
    """Rollout, traffic asked for and traffic resolved, once both controllers have nothing more to change."""
    rollout = before
    while True:
        asked = split(canary_percent, rollout)
        traffic = resolved(asked, ready)
        after = observed(rollout, created, ready, traffic)
        if after == rollout:
            return rollout, asked, traffic
        rollout = after


def read_traffic(entries: Iterable[Mapping[str, Any]]) -> tuple[Target, ...]:
    """`spec.traffic` of a Knative service, or the traffic of a status."""
    return tuple(
        Target(
            percent=int(entry.get("percent") or 0),
            revision=str(entry.get("revisionName") or ""),
            latest=bool(entry.get("latestRevision", not entry.get("revisionName"))),
            tag=str(entry.get("tag") or ""),
        )
        for entry in entries
    )


def read_rollout(component: Mapping[str, Any]) -> Rollout:
    """From `status.components.<component>` of an InferenceService."""
    return Rollout(
        created=component.get("latestCreatedRevision", ""),
        ready=component.get("latestReadyRevision", ""),
        rolled_out=component.get("latestRolledoutRevision", ""),
        previous=component.get("previousRolledoutRevision", ""),
    )
