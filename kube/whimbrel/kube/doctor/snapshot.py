"""What was fetched from a cluster, as values: the only thing that the checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """The objects of one request, or why there are none: `absent`, or `denied` with what the server said."""

    objects: tuple[Object, ...] = ()
    state: Literal["seen", "absent", "denied"] = "seen"
    said: str = ""

    def named(self, name: str) -> Object | None:
        return next((each for each in self.objects if each["metadata"]["name"] == name), None)


ABSENT = Look(state="absent")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`kinds` are those of each group version that is looked at. `wanted` are the objects that are to be applied.

    Of Secrets only the names of their keys are kept; `needed_keys` are those that are asked of each.
    """

    version: str
    kinds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    deployments: Mapping[str, Look] = field(default_factory=dict)
    config_maps: Mapping[tuple[str, str], Look] = field(default_factory=dict)
    cluster_roles: Look = ABSENT
    nodes: Look = ABSENT
    webhooks: Look = ABSENT
    endpoint_slices: Look = ABSENT
    brokers: Look = ABSENT
    triggers: Look = ABSENT
    sources: Look = ABSENT
    services: Look = ABSENT
    inference_services: Look = ABSENT
    pods: Look = ABSENT
    service_accounts: Look = ABSENT
    settings: Look = ABSENT
    secrets: Mapping[str, Look] = field(default_factory=dict)
    needed_keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    namespace: str = "default"
    wanted: tuple[Object, ...] = ()

    @property
    def is_one_machine(self) -> bool:
        return "whimbrel" in self.version

    @property
    def concerned(self) -> tuple[Object, ...]:
        """What is to be applied; where nothing is, what is there."""
        there = (*self.inference_services.objects, *self.services.objects, *self.sources.objects)
        return self.wanted or there

    def config(self, namespace: str, name: str) -> Mapping[str, str]:
        look = self.config_maps.get((namespace, name), ABSENT)
        return (look.objects[0].get("data") or {}) if look.objects else {}

    def version_of(self, namespace: str) -> str:
        """Of what is installed in a namespace: the label that its release has, else the tag of its image."""
        look = self.deployments.get(namespace, ABSENT)
        for each in look.objects:
            labels = each["metadata"].get("labels") or {}
            if version := labels.get("app.kubernetes.io/version"):
                return str(version)
        tags = [_tag(each) for each in look.objects]
        return next((tag for tag in tags if tag), "")


def _tag(deployment: Object) -> str:
    containers = deployment.get("spec", {}).get("template", {}).get("spec", {}).get("containers") or [{}]
    name = str(containers[0].get("image", "")).partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]
