"""Deployments: which pods come and which go, by Kubernetes' rules for a rolling update, and their status; pure.

The pods of one template are those with its hash; a ReplicaSet (`replica_sets`) only keeps the template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.control import conditions, names, serving
from whimbrel.local.control.conditions import Condition

_DEADLINE_SECONDS = 600  # Kubernetes' default
_HASH_LETTERS = 10


@dataclass(frozen=True, slots=True)
class PodOf:
    """A pod of a Deployment. `current`: of the template as it is now."""

    name: str
    current: bool
    ready: bool
    created: datetime
    said: str = ""  # by its process, at its last end, while it is not ready


@dataclass(frozen=True, slots=True)
class Step:
    """What is to happen now: so many new pods, and an end to these."""

    make: int = 0
    end: tuple[str, ...] = ()


def template_of(deployment: Object, extra_env: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """With the label by which Kubernetes tells the pods of one template from those of another.

    `extra_env`: what SinkBindings add to its containers, which the label is not of: it is the ReplicaSet's too, that
    keeps the template as it was written. What kubectl writes for nothing, when it goes back to a template, makes no
    other template of it.
    """
    template = serving.with_environment(deployment["spec"]["template"], ())
    metadata = {name: value for name, value in (template.get("metadata") or {}).items() if value is not None}
    for container in template["spec"]["containers"]:
        if not container.get("resources", True):
            del container["resources"]
    template = {**template, "metadata": metadata}
    digest = serving.digest_of(template)[:_HASH_LETTERS]
    labels = dict(metadata.get("labels") or {}) | {names.TEMPLATE_HASH_LABEL: digest}
    return serving.with_environment({**template, "metadata": {**metadata, "labels": labels}}, extra_env)


def replicas(deployment: Object) -> int:
    return int(deployment["spec"].get("replicas", 1))


def step(deployment: Object, pods: Sequence[PodOf], *, ending: bool) -> Step:
    """`ending`: a process of a pod that is gone has not ended yet."""
    wanted = replicas(deployment)
    # Those that are ready and those that have run the longest are kept.
    current = sorted((pod for pod in pods if pod.current), key=lambda pod: (not pod.ready, pod.created, pod.name))
    old = [pod for pod in pods if not pod.current]
    surplus = tuple(pod.name for pod in current[wanted:])
    missing = max(0, wanted - len(current))
    if _recreates(deployment):
        waits = bool(old) or ending
        return Step(0 if waits else missing, surplus + tuple(pod.name for pod in old))
    surge, unavailable = _bounds(deployment, wanted)
    make = min(missing, max(0, wanted + surge - len(pods)))
    return Step(make, surplus + _dispensable(old, current[:wanted], wanted - unavailable))


def status(deployment: Object, pods: Sequence[PodOf], now: datetime) -> dict[str, Any]:
    wanted = replicas(deployment)
    before = (deployment.get("status") or {}).get("conditions", [])
    current = [pod for pod in pods if pod.current]
    ready = sum(pod.ready for pod in pods)
    unavailable = 0 if _recreates(deployment) else _bounds(deployment, wanted)[1]
    done = len(current) == len(pods) == wanted and ready == wanted
    listed = [
        _available(ready >= wanted - unavailable),
        _progressing(deployment, current, done=done, now=now),
    ]
    counts = {
        "replicas": len(pods),
        "updatedReplicas": len(current),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
    }
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{name: count for name, count in counts.items() if count},
        "conditions": conditions.merged(before, listed, conditions.written_time(now)),
    }


def unready(deployment: Object) -> str:
    """Why it does not run as it is written, as `kubectl rollout status` would wait for; empty where it does."""
    found = deployment.get("status") or {}
    progressing = conditions.read(deployment, "Progressing")
    if found.get("observedGeneration") == deployment["metadata"].get("generation", 1):
        if progressing.reason == "NewReplicaSetAvailable":
            return ""
        return progressing.message
    return "not looked at yet"


def _recreates(deployment: Object) -> bool:
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def _bounds(deployment: Object, wanted: int) -> tuple[int, int]:
    """How many more there may be than wanted, and how many fewer may be ready. A share rounds up, and down."""
    given = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = _count(given.get("maxSurge", "25%"), wanted, math.ceil)
    unavailable = _count(given.get("maxUnavailable", "25%"), wanted, math.floor)
    return surge, unavailable if surge or unavailable else 1  # else nothing could ever change


def _count(given: int | str, wanted: int, rounded: Callable[[float], int]) -> int:
    if isinstance(given, int):
        return given
    return rounded(int(given.removesuffix("%")) * wanted / 100)


def _dispensable(old: Sequence[PodOf], current: Sequence[PodOf], least_ready: int) -> tuple[str, ...]:
    """Old pods that may end: those that are not ready first, the others as long as enough are ready."""
    not_ready = [pod.name for pod in old if not pod.ready]
    ready = sorted((pod for pod in old if pod.ready), key=lambda pod: (pod.created, pod.name))
    spare = len(ready) + sum(pod.ready for pod in current) - least_ready
    return tuple(not_ready) + tuple(pod.name for pod in ready[: max(0, spare)])


def _available(enough: bool) -> Condition:
    if enough:
        return Condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    message = "Deployment does not have minimum availability."
    return Condition("Available", "False", "MinimumReplicasUnavailable", message)


def _progressing(deployment: Object, current: Sequence[PodOf], *, done: bool, now: datetime) -> Condition:
    name = deployment["metadata"]["name"]
    if done:
        return Condition("Progressing", "True", "NewReplicaSetAvailable", f"Deployment {name!r} runs its template.")
    deadline = deployment["spec"].get("progressDeadlineSeconds", _DEADLINE_SECONDS)
    latest = max((pod.created for pod in current), default=now)
    said = next((pod.said for pod in current if pod.said), "not every pod of its template is ready")
    if (now - latest).total_seconds() > deadline:
        return Condition("Progressing", "False", "ProgressDeadlineExceeded", said)
    return Condition("Progressing", "True", "ReplicaSetUpdated", said)
