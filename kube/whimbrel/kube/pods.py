"""The pods behind a service, a revision or a source: which they are, and what is wrong with one; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.kube.kinds import CONTAINER_SOURCE, DEPLOYMENT, INFERENCE_SERVICE, KNATIVE_SERVICE, REVISION, Kind

_SIDECARS = frozenset({"queue-proxy", "istio-proxy", "linkerd-proxy"})
# How a start looks that goes well.
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_SELECTORS: Mapping[Kind, str] = {
    INFERENCE_SERVICE: "serving.kserve.io/inferenceservice={name}",
    KNATIVE_SERVICE: "serving.knative.dev/service={name}",
    REVISION: "serving.knative.dev/revision={name}",
    CONTAINER_SOURCE: "sources.knative.dev/containerSource={name}",
    DEPLOYMENT: "app={name}",
}


@dataclass(frozen=True, slots=True)
class Instance:
    """One start of one pod's container: `restarts` tells it from the one before."""

    pod: str
    uid: str
    container: str
    restarts: int


def selector(kind: Kind, name: str, component: str = "") -> str:
    """The labels of the pods behind an object. `component` is predictor or transformer of an InferenceService."""
    if kind not in _SELECTORS:
        known = ", ".join(each.kind for each in _SELECTORS)
        raise InputRefused(f"expected what has pods ({known}), seen {kind.kind}")
    if component and kind is not INFERENCE_SERVICE:
        raise InputRefused(f"expected --component with an InferenceService, seen {kind.kind}")
    return _SELECTORS[kind].format(name=name) + (f",component={component}" if component else "")


def main_container(pod: Mapping[str, Any]) -> str:
    """The one that is not Knative's or a mesh's."""
    names = [str(each.get("name")) for each in (pod.get("spec") or {}).get("containers") or ()]
    return next((name for name in names if name not in _SIDECARS), names[0] if names else "")


def instance(pod: Mapping[str, Any]) -> Instance | None:
    """The container whose log there is; None while it has not started."""
    container = main_container(pod)
    status = _status(pod, container)
    if status is None or not (status.get("state") or {}).keys() & {"running", "terminated"}:
        return None
    metadata = pod["metadata"]
    uid = str(metadata.get("uid") or metadata["name"])
    return Instance(metadata["name"], uid, container, int(status.get("restartCount") or 0))


def trouble(pod: Mapping[str, Any]) -> str:
    """What keeps a pod from working, in one line; empty where nothing does."""
    name = pod["metadata"]["name"]
    for status in _statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated")
        if reason and reason not in _STARTING:
            return _line(name, status, f"{reason}: {waiting.get('message') or ''}", ended)
        if ended and ended.get("exitCode"):
            return _line(name, status, "ended", ended)
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"pod {name}: {condition.get('reason')}: {condition.get('message')}"
    return ""


def troubles(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    return [line for pod in pods if (line := trouble(pod))]


def readiness(pod: Mapping[str, Any]) -> tuple[int, int, int]:
    """How many containers are ready, of how many, after how many restarts."""
    statuses = list((pod.get("status") or {}).get("containerStatuses") or ())
    containers = (pod.get("spec") or {}).get("containers") or statuses
    ready = sum(bool(each.get("ready")) for each in statuses)
    return ready, len(containers), sum(int(each.get("restartCount") or 0) for each in statuses)


def _line(name: str, status: Mapping[str, Any], what: str, ended: Mapping[str, Any] | None) -> str:
    code = f", exit code {ended['exitCode']}" if ended and ended.get("exitCode") is not None else ""
    said = f", last said: {' '.join(str(ended['message']).split())[-300:]}" if ended and ended.get("message") else ""
    restarts = int(status.get("restartCount") or 0)
    return f"pod {name}, {status.get('name')}: {what.rstrip(': ')}{code}, {restarts} restarts{said}"


def _statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _status(pod: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    return next((each for each in _statuses(pod) if each.get("name") == container), None)
