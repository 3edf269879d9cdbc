"""Fetches what the checks need; GET alone, and what may not be read is said to be so, never an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from whimbrel.core.errors import NotFound
from whimbrel.kube.answers import Forbidden
from whimbrel.kube.client import Client
from whimbrel.kube.doctor.references import CREDENTIALS, SETTINGS, secrets
from whimbrel.kube.doctor.snapshot import ABSENT, Look, Snapshot
from whimbrel.kube.kinds import (
    BROKER,
    CLUSTER_ROLE,
    CONFIG_MAP,
    CONTAINER_SOURCE,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    KNATIVE_SERVICE,
    MUTATING_WEBHOOK,
    NODE,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    TRIGGER,
    VALIDATING_WEBHOOK,
    Kind,
)

KSERVE, SERVING, EVENTING = "kserve", "knative-serving", "knative-eventing"
GROUPS = (
    *("serving.kserve.io/v1beta1", "serving.knative.dev/v1", "eventing.knative.dev/v1", "sources.knative.dev/v1"),
    *("rollout.whimbrel.dev/v1", "keda.sh/v1alpha1", "cert-manager.io/v1"),
)
CONFIG_MAPS = (
    (SERVING, "config-features"),
    (SERVING, "config-network"),
    (SERVING, "config-autoscaler"),
    (EVENTING, "config-br-defaults"),
    (KSERVE, "inferenceservice-config"),
)
_ENDPOINT_SLICE = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")


async def look(
    client: Client,
    namespace: str,
    *,
    settings: str = SETTINGS,
    credentials: str = CREDENTIALS,
    wanted: Sequence[Mapping[str, Any]] = (),
) -> Snapshot:
    """Raises Unavailable when the server stops answering, Forbidden only when it does not know the user at all."""
    needed = secrets(wanted, credentials)
    version = (await client.connection.read_path("version", doing="expected the server's version"))["gitVersion"]
    whole = {
        "cluster_roles": _list(client, CLUSTER_ROLE, None),
        "nodes": _list(client, NODE, None),
        "webhooks": _webhooks(client),
        "endpoint_slices": _list(client, _ENDPOINT_SLICE, None),
        "brokers": _list(client, BROKER, namespace),
        "triggers": _list(client, TRIGGER, namespace),
        "sources": _list(client, CONTAINER_SOURCE, namespace),
        "services": _list(client, KNATIVE_SERVICE, namespace),
        "inference_services": _list(client, INFERENCE_SERVICE, namespace),
        "pods": _list(client, POD, namespace),
        "service_accounts": _list(client, SERVICE_ACCOUNT, namespace),
        "settings": _get(client, CONFIG_MAP, settings, namespace),
    }
    found = dict(zip(whole, await asyncio.gather(*whole.values()), strict=True))
    return Snapshot(
        version=str(version),
        kinds={group: await _kinds(client, group) for group in GROUPS},
        deployments={each: await _list(client, DEPLOYMENT, each) for each in (KSERVE, SERVING, EVENTING)},
        config_maps={(place, name): await _get(client, CONFIG_MAP, name, place) for place, name in CONFIG_MAPS},
        secrets={name: await _secret(client, name, namespace) for name in needed},
        needed_keys=needed,
        namespace=namespace,
        wanted=tuple(wanted),
        **found,
    )


async def _list(client: Client, kind: Kind, namespace: str | None) -> Look:
    try:
        return Look((await client.list(kind, namespace)).objects)
    except NotFound:
        return ABSENT
    except Forbidden as error:
        return Look(state="denied", said=str(error))


async def _get(client: Client, kind: Kind, name: str, namespace: str | None) -> Look:
    try:
        return Look((await client.get(kind, name, namespace),))
    except NotFound:
        return ABSENT
    except Forbidden as error:
        return Look(state="denied", said=str(error))


async def _webhooks(client: Client) -> Look:
    validating, mutating = [await _list(client, kind, None) for kind in (VALIDATING_WEBHOOK, MUTATING_WEBHOOK)]
    if "seen" not in (validating.state, mutating.state):
        return validating
    return Look(validating.objects + mutating.objects)


async def _kinds(client: Client, group: str) -> frozenset[str]:
    """Of a group version; none where the server does not have it. What each user may see."""
    try:
        listing = await client.connection.read_path(f"apis/{group}", doing=f"expected {group}")
    except (NotFound, Forbidden):
        return frozenset()
    return frozenset(str(each.get("kind")) for each in listing.get("resources") or ())


async def _secret(client: Client, name: str, namespace: str) -> Look:
    """The values go no further than here."""
    found = await _get(client, SECRET, name, namespace)
    blank = [{"metadata": {"name": name}, "data": dict.fromkeys(each.get("data") or {}, "")} for each in found.objects]
    return Look(tuple(blank), found.state, found.said)
