"""An InferenceService's status as values, and what its revisions and traffic say of a change of model; no I/O.

KServe's status lies in places: `observedGeneration` counts nothing, Ready is stale for seconds after a patch and True
during several transient splits, `modelStatus.lastFailureInfo` stays for good, and the entry with the tag `latest` may
name the old revision. So everything here goes by names of revisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from whimbrel.kube.conditions import Condition, conditions

ComponentName = Literal["predictor", "transformer", "explainer"]
COMPONENTS: tuple[ComponentName, ...] = ("predictor", "transformer", "explainer")
RAMPING = "RolloutInProgress"


@dataclass(frozen=True, slots=True)
class Share:
    """One entry of the traffic: `percent` of all requests go to `revision`. `url` is that of its tag."""

    revision: str
    percent: int
    tag: str = ""
    url: str = ""
    latest: bool = False


@dataclass(frozen=True, slots=True)
class Component:
    """`created`: the newest revision; `ready`: the newest that became ready; `rolled_out`: the last that had all
    traffic, and `previous` the one before it. Empty where the status names none (yet)."""

    created: str = ""
    ready: str = ""
    rolled_out: str = ""
    previous: str = ""
    traffic: tuple[Share, ...] = ()
    url: str = ""
    cluster_url: str = ""

    def percent(self, revision: str) -> int:
        """Of all requests, summed over the entries that name this revision."""
        return sum(share.percent for share in self.traffic if share.revision == revision)

    @property
    def settled(self) -> bool:
        """Whether one revision is created, ready and has all the traffic."""
        return bool(self.created) and self.created == self.ready and self.percent(self.created) == 100


@dataclass(frozen=True, slots=True)
class InferenceStatus:
    """`mode` is Knative or Standard; empty until a controller has looked."""

    components: Mapping[ComponentName, Component]
    conditions: tuple[Condition, ...]
    url: str = ""
    cluster_url: str = ""
    mode: str = ""

    @property
    def predictor(self) -> Component:
        return self.components.get("predictor", Component())

    def condition(self, type_: str) -> Condition | None:
        return next((each for each in self.conditions if each.type == type_), None)


class Phase(StrEnum):
    """Where a change of one component stands."""

    UNSEEN = "unseen"  # the controller has not made a revision of it yet
    STARTING = "starting"  # or crash-looping: the status does not tell, so whoever waits needs a deadline
    PARKED = "parked"  # ready with no traffic: before the first step, or rolled back
    CANARY = "canary"
    RAMPING = "ramping"  # a rollout-duration moves the traffic by itself
    SETTLING = "settling"  # the split is not what it will be in a moment
    PROMOTED = "promoted"


def phase(component: Component, before: Component | None = None) -> Phase:
    """Where the newest revision stands. `before` is the component as it was when the change was made.

    With `before`, an unchanged `created` means that nobody has looked at the change yet.
    """
    created = component.created
    if not created or (before is not None and created == before.created):
        return Phase.UNSEEN
    if component.ready != created:
        return Phase.STARTING
    percent = component.percent(created)
    if _ramps(component):
        return Phase.RAMPING
    if percent == 100:
        # {created: 0, created: 100}: of a first revision for good; else until the old one has the traffic back.
        whole = len(component.traffic) == 1 or component.rolled_out == created
        return Phase.PROMOTED if whole else Phase.SETTLING
    if component.rolled_out == created or not component.percent(component.rolled_out):
        return Phase.SETTLING
    return Phase.CANARY if percent else Phase.PARKED


def read_status(resource: Mapping[str, Any]) -> InferenceStatus:
    """Of an InferenceService as the server wrote it; everything is empty where there is no status yet."""
    status = resource.get("status") or {}
    found = status.get("components") or {}
    return InferenceStatus(
        components={name: _component(found[name]) for name in COMPONENTS if isinstance(found.get(name), Mapping)},
        conditions=conditions(resource),
        url=str(status.get("url") or ""),
        cluster_url=str((status.get("address") or {}).get("url") or ""),
        mode=str(status.get("deploymentMode") or ""),
    )


def read_shares(status: Mapping[str, Any]) -> tuple[Share, ...]:
    """The `traffic` of a component's status, of a Knative Service's or of a Route's."""
    return tuple(
        Share(
            revision=str(entry.get("revisionName") or ""),
            percent=int(entry.get("percent") or 0),
            tag=str(entry.get("tag") or ""),
            url=str(entry.get("url") or ""),
            latest=bool(entry.get("latestRevision")),
        )
        for entry in status.get("traffic") or ()
    )


def _component(status: Mapping[str, Any]) -> Component:
    def text(name: str) -> str:
        return str(status.get(name) or "")

    return Component(
        created=text("latestCreatedRevision"),
        ready=text("latestReadyRevision"),
        rolled_out=text("latestRolledoutRevision"),
        previous=text("previousRolledoutRevision"),
        traffic=read_shares(status),
        url=text("url"),
        cluster_url=str((status.get("address") or {}).get("url") or ""),
    )


def _ramps(component: Component) -> bool:
    """Two entries that both call themselves the latest, of two revisions."""
    return len({share.revision for share in component.traffic if share.latest}) > 1
