"""What a pass of the controllers knows beside the objects, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.autoscaling import Scaling
from whimbrel.local.control import conditions
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.routing import Key, RoutePlan

Tried = tuple[str, int, str]  # the uid and the generation of an object, and the step that was made of it


@dataclass(frozen=True, slots=True)
class RevisionPlan:
    """A revision that may have processes. `fixed`: this many, without the autoscaler."""

    key: Key
    scaling: Scaling
    fixed: int | None


@dataclass
class Outcome:
    pods: list[tuple[Object, str]] = field(default_factory=list)  # with the kind of what they belong to
    revisions: list[RevisionPlan] = field(default_factory=list)
    routes: list[RoutePlan] = field(default_factory=list)
    broker: dict[str, Any] = field(default_factory=dict)
    unready: list[str] = field(default_factory=list)  # what is not Ready, and why
    failed: set[Tried] = field(default_factory=set)
    happened: list[tuple[Object, str, str, str]] = field(default_factory=list)  # object, type, reason, message

    def tell(self, about: Object, reason: str, message: str, type_: str = "Normal") -> None:
        """An event about an object."""
        self.happened.append((about, type_, reason, message))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engine knows beside the objects. `before`: what the last pass asked for; `resting`: what failed a
    short while ago."""

    seen: Mapping[Key, Seen]
    replicas: Mapping[Key, int]  # what the autoscaler wants of a revision
    service_port: Callable[[str], int]
    gateway_port: int
    broker_port: int
    brokers_running: frozenset[Key]
    stable_seconds: float
    most_replicas: int
    now: datetime
    ending: frozenset[str] = frozenset()  # uids of owners with a process that has not ended though its pod is gone
    before: Outcome = field(default_factory=Outcome)
    resting: frozenset[Tried] = frozenset()

    @property
    def time(self) -> str:
        return conditions.written_time(self.now)
