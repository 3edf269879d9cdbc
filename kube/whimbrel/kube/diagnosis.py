"""Why something does not become ready, beyond what its own status says: its pods tell what KServe's hides."""

from __future__ import annotations

from whimbrel.core.errors import WhimbrelError
from whimbrel.kube.client import Client, Object
from whimbrel.kube.kinds import POD, Kind
from whimbrel.kube.logs import last_line
from whimbrel.kube.pods import instance, readiness, selector, trouble

_MOST_PODS = 5


async def pods_of(client: Client, kind: Kind, name: str, namespace: str | None) -> tuple[Object, ...]:
    """The pods behind an object; none for a kind that has none, or where they may not be seen."""
    try:
        labels = selector(kind, name)
        return (await client.list(POD, namespace, labels=labels)).objects
    except WhimbrelError:
        return ()


async def pod_troubles(client: Client, kind: Kind, name: str, namespace: str | None) -> list[str]:
    """A line for each pod that is not ready: what is wrong with it, else what it said last."""
    lines = []
    for pod in (await pods_of(client, kind, name, namespace))[:_MOST_PODS]:
        ready, containers, _ = readiness(pod)
        if ready < containers:
            lines.append(trouble(pod) or await _last_words(client, pod))
    return [line for line in lines if line]


async def _last_words(client: Client, pod: Object) -> str:
    started = instance(pod)
    if started is None:
        return ""
    try:
        said = await last_line(client, pod["metadata"]["namespace"], started)
    except WhimbrelError:
        return ""
    return f"pod {started.pod} is not ready; last said: {said}" if said else ""
