"""What the conditions of a KServe or Knative resource say; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a webhook said no to stays so until the object is changed; all else may still come right.
_FOR_GOOD = "denied the request"
_SETTINGS = frozenset({"ServingRuntime", "ClusterServingRuntime", "ClusterStorageContainer", "ModelRollout"})


@dataclass(frozen=True, slots=True)
class Condition:
    """`status` is True, False or Unknown, as Kubernetes writes them."""

    type: str
    status: str
    reason: str
    message: str

    def __str__(self) -> str:
        said = ": ".join(part for part in (self.reason, self.message) if part)
        return f"{self.type} is {self.status}" + (f" ({said})" if said else "")

    @property
    def is_final(self) -> bool:
        """Whether waiting does not mend it."""
        return self.status == "False" and _FOR_GOOD in self.message


def conditions(resource: Mapping[str, Any]) -> tuple[Condition, ...]:
    listed = (resource.get("status") or {}).get("conditions") or []
    return tuple(
        Condition(
            type=str(entry.get("type", "")),
            status=str(entry.get("status", "Unknown")),
            reason=str(entry.get("reason") or ""),
            message=str(entry.get("message") or ""),
        )
        for entry in listed
    )


def why_not_ready(resource: Mapping[str, Any]) -> Condition | None:
    """None when the resource is Ready; else the condition that says most about why.

    A status of an older generation is not believed where the controller counts generations: Knative's do, KServe's
    counts something else. KServe's own Ready often carries no reason: then the first condition that is False with a
    reason, else the first Unknown one with a message, speaks for it.
    """
    listed = conditions(resource)
    ready = next((condition for condition in listed if condition.type == "Ready"), None)
    if ready is None:
        return Condition("Ready", "Unknown", "", "no controller has looked at it yet")
    if _is_stale(resource):
        return Condition("Ready", "Unknown", "", "no controller has looked at the change yet")
    if ready.status == "True":
        return None
    if ready.reason or ready.message:
        return ready
    # `Stopped: False` is how a running service looks.
    telling = [each for each in listed if each.status != "True" and each.type != "Stopped" and each.reason]
    return min(telling, key=lambda each: (each.status != "False", not each.message), default=ready)


def has_readiness(resource: Mapping[str, Any]) -> bool:
    """Whether it has a Ready condition, or somebody is to write one: for all kinds of KServe, Knative and ours, but
    plain settings. A Deployment, a ConfigMap have none."""
    if any(each.type == "Ready" for each in conditions(resource)):
        return True
    group = str(resource.get("apiVersion", "")).rpartition("/")[0]
    return group.endswith((".knative.dev", ".kserve.io", ".whimbrel.dev")) and resource.get("kind") not in _SETTINGS


def _is_stale(resource: Mapping[str, Any]) -> bool:
    if resource.get("kind") == "InferenceService":
        return False
    observed = (resource.get("status") or {}).get("observedGeneration")
    generation = (resource.get("metadata") or {}).get("generation")
    return isinstance(observed, int) and isinstance(generation, int) and observed < generation
