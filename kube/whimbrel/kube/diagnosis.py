"""Why something does not become ready, beyond what its own status says: its pods tell what KServe's hides."""

from __future__ import annotations

from whimbrel.core.errors import WhimbrelError
from whimbrel.kube.client import Client, Object
from whimbrel.kube.kinds import POD, Kind
from whimbrel.kube.pods import selector, troubles


async def pods_of(client: Client, kind: Kind, name: str, namespace: str | None) -> tuple[Object, ...]:
    """The pods behind an object; none for a kind that has none, or where they may not be seen."""
    try:
        labels = selector(kind, name)
        return (await client.list(POD, namespace, labels=labels)).objects
    except WhimbrelError:
        return ()


async def pod_troubles(client: Client, kind: Kind, name: str, namespace: str | None) -> list[str]:
    return troubles(await pods_of(client, kind, name, namespace))
