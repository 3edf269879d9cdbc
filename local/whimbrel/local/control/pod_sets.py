"""The pods of each owner: as many of its template as it is to have, made and ended, and their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from whimbrel.local.api import kinds
from whimbrel.local.api.metadata import Object
from whimbrel.local.control import deployments, eventing, names, pods, replica_sets, serving, templates
from whimbrel.local.control.outcome import Facts, Outcome
from whimbrel.local.control.pods import Seen
from whimbrel.local.control.world import World, is_leaving


class PodSets:
    """Of one pass."""

    def __init__(self, world: World, facts: Facts, outcome: Outcome) -> None:
        self._world, self._facts, self._outcome = world, facts, outcome

    def of(self, owner: Object, name: str, template: Mapping[str, Any], count: int) -> list[Object]:
        """As many pods of this template as are wanted: more are made, the youngest go first, others' templates go."""
        digest = serving.digest_of(template)
        owned = self._owned(owner)
        for pod in owned:
            if names.annotations_of(pod).get(names.TEMPLATE_DIGEST) != digest:
                self._world.delete(kinds.POD, pod)
        current = [pod for pod in owned if names.annotations_of(pod).get(names.TEMPLATE_DIGEST) == digest]
        current.sort(key=self._worth)
        for pod in current[min(count, self._facts.most_replicas) :]:
            self._end(owner, pod)
        current = current[: min(count, self._facts.most_replicas)]
        while len(current) < min(count, self._facts.most_replicas):
            made = self._make(owner, f"{name}-deployment", template, digest)
            if made is None:
                break
            current.append(made)
        self._outcome.pods += [(pod, owner["kind"]) for pod in current]
        return current

    def keep(self, owner: Object) -> None:
        """Those that it has, as they are."""
        listed = {names.of(pod) for pod, _ in self._outcome.pods}
        kept = [pod for pod in self._owned(owner) if names.of(pod) not in listed]
        self._outcome.pods += [(pod, owner["kind"]) for pod in kept]

    def of_deployment(self, deployment: Object) -> None:
        """One step towards what it says, and its status."""
        template = deployments.template_of(deployment, eventing.bound_environment(self._world, deployment))
        digest = serving.digest_of(template)
        owned = {pod["metadata"]["name"]: pod for pod in self._owned(deployment)}
        leaves = deployment["metadata"]["uid"] in self._facts.ending
        step = deployments.step(deployment, self._read(owned, digest), ending=leaves)
        for name in step.end:
            self._end(deployment, owned.pop(name))
        prefix = f"{deployment['metadata']['name']}-{template['metadata']['labels'][names.TEMPLATE_HASH_LABEL]}"
        for made in [self._make(deployment, prefix, template, digest) for _ in range(step.make)]:
            if made is not None:
                owned[made["metadata"]["name"]] = made
        self._outcome.pods += [(pod, deployment["kind"]) for pod in owned.values()]
        self._replica_sets(deployment, owned, digest)
        status = deployments.status(deployment, self._read(owned, digest), self._facts.now)
        self._world.set_status(kinds.DEPLOYMENT, deployment, status)

    def _replica_sets(self, deployment: Object, owned: Mapping[str, Object], digest: str) -> None:
        """That of this template, those of the ones before, and the number of the newest at the Deployment."""
        known = self._world.owned(kinds.REPLICA_SET, deployment)
        now = self._world.ensure(kinds.REPLICA_SET, replica_sets.latest(deployment, known))
        if now is None:
            return
        revision = {replica_sets.REVISION: names.annotations_of(now)[replica_sets.REVISION]}
        self._world.annotate(kinds.DEPLOYMENT, deployment, revision)
        pods = self._read(owned, digest)
        its = [
            pod for pod in pods if _is_of(owned[pod.name], now)
        ]  # also those from before a change of what a SinkBinding adds
        self._world.set_status(kinds.REPLICA_SET, now, replica_sets.status(now, its))
        old = []
        for each in (each for each in known if each["metadata"]["name"] != now["metadata"]["name"]):
            its = [pod for pod in pods if _is_of(owned[pod.name], each)]
            if (written := self._world.ensure(kinds.REPLICA_SET, replica_sets.retired(each, its))) is not None:
                self._world.set_status(kinds.REPLICA_SET, written, replica_sets.status(written, its))
                old.append(written)
        for each in replica_sets.superfluous(deployment, old):
            self._world.delete(kinds.REPLICA_SET, each)

    def write_status(self, pod: Object) -> None:
        found = self._world.find(kinds.POD, *names.of(pod))
        if found is not None:
            seen = self._facts.seen.get(names.of(found), Seen())
            self._world.set_status(kinds.POD, found, pods.status(found, seen, self._facts.time))

    def _read(self, owned: Mapping[str, Object], digest: str) -> list[deployments.PodOf]:
        return [self._pod_of(name, pod, digest) for name, pod in owned.items()]

    def _pod_of(self, name: str, pod: Object, digest: str) -> deployments.PodOf:
        seen = self._facts.seen.get(names.of(pod), Seen())
        return deployments.PodOf(
            name,
            current=names.annotations_of(pod).get(names.TEMPLATE_DIGEST) == digest,
            ready=seen.ready,
            created=datetime.fromisoformat(pod["metadata"]["creationTimestamp"]),
            said="" if seen.ready else seen.fault or seen.last_exit,
        )

    def _owned(self, owner: Object) -> list[Object]:
        return [pod for pod in self._world.owned(kinds.POD, owner) if not is_leaving(pod)]

    def _make(self, owner: Object, prefix: str, template: Mapping[str, Any], digest: str) -> Object | None:
        made = self._world.ensure(kinds.POD, templates.pod(owner, prefix, template, digest))
        if made is not None:
            self._outcome.tell(owner, "SuccessfulCreate", f"Created pod {made['metadata']['name']!r}")
        return made

    def _end(self, owner: Object, pod: Object) -> None:
        self._world.delete(kinds.POD, pod)
        self._outcome.tell(owner, "Killing", f"Stopping pod {pod['metadata']['name']!r}")

    def _worth(self, pod: Object) -> tuple[bool, str, str]:
        """Ready ones first, then the oldest."""
        seen = self._facts.seen.get(names.of(pod), Seen())
        return (not seen.ready, pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])


def _is_of(pod: Object, replica_set: Object) -> bool:
    label = names.TEMPLATE_HASH_LABEL
    return names.labels_of(pod).get(label) == names.labels_of(replica_set).get(label)
