"""Moves traffic by revision: one patch names another model and its share, and KServe makes a revision of it.

`traffic_of` reads what the InferenceService wants and what its status says of that; `operations` is the next patch.
Both are pure, and go by names of revisions, since KServe's status lies in other places (`whimbrel.kube.inference`).

    to a step     the candidate's name and canaryTrafficPercent, in one patch
    promotion     the field is taken out: the next change of anything else then needs no percent
    back          the champion's name and 0 in one patch, which moves the traffic at once; that makes a revision too,
                  and once it is ready the field is taken out. Not before: without the field KServe gives all traffic
                  to the newest revision that is ready, which is the candidate until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from whimbrel.core.errors import InputRefused
from whimbrel.core.tensors import LATEST_TAG, PREVIOUS_TAG
from whimbrel.kube.client import Client, Object
from whimbrel.kube.diagnosis import pods_of
from whimbrel.kube.inference import Component, Phase, phase, read_status
from whimbrel.kube.kinds import INFERENCE_SERVICE, REVISION
from whimbrel.kube.lint.workloads import STANDARD_NAMES
from whimbrel.kube.pods import readiness, trouble, troubles
from whimbrel.mlflow.rollout.comparing import Asked
from whimbrel.mlflow.rollout.naming import (
    Operation,
    answers_as,
    names,
    naming_of,
    read_naming,
    read_percent,
    renaming,
    sharing,
)
from whimbrel.mlflow.rollout.policy import seconds
from whimbrel.mlflow.rollout.reconcile import Traffic
from whimbrel.mlflow.rollout.resource import ModelRollout, Revisions, Spec

TAG_ROUTING: Final = "serving.kserve.io/enable-tag-routing"
CRASHES: Final = 3  # of one pod of the candidate that is not ready, and it is given up


class ByRevision:
    """Of one rollout, for one round: `move` changes what `look` has seen and nothing else."""

    def __init__(self, cluster: Client, rollout: ModelRollout) -> None:
        self._cluster, self._rollout = cluster, rollout
        self._service: Object = {}

    async def look(self) -> Traffic:
        rollout = self._rollout
        self._service = await self._cluster.get(INFERENCE_SERVICE, rollout.spec.inference_service, rollout.namespace)
        traffic = traffic_of(self._service, rollout)
        component = read_status(self._service).predictor
        return await self._with_word_of_its_pods(component, traffic) if _is_of(component, traffic) else traffic

    async def move(self, target: Traffic, seen: Traffic) -> None:
        """Raises Conflict where the InferenceService is not the one that was seen."""
        patch = operations(self._service, self._rollout.noting(seen.revisions), target, datetime.now(UTC))
        if patch:
            await self._cluster.patch_exactly(INFERENCE_SERVICE, self._service, patch)

    async def _with_word_of_its_pods(self, component: Component, traffic: Traffic) -> Traffic:
        """The status tells a start from a crash as little as a revision that was ready from one that is no more;
        where pods may be seen, they do."""
        listed = await pods_of(self._cluster, REVISION, component.created, self._rollout.namespace)
        return with_word_of(listed, traffic, self._rollout.spec.candidate.version)


def traffic_of(service: Mapping[str, Any], rollout: ModelRollout) -> Traffic:
    """Before the rollout, `current` is the champion only where it alone serves, by one settled revision. On the way
    back, the champion is the `candidate` too until the revision that its name makes has all traffic.

    Raises InputRefused where the InferenceService names no version, and in another mode than Knative's.
    """
    _refuse_without_revisions(service)
    spec, noted = rollout.spec, rollout.status.revisions
    component, named, percent = read_status(service).predictor, read_naming(service), read_percent(service)
    champion, candidate = spec.champion.version, spec.candidate.version
    of_champion = names(named, spec.champion, spec.model, champion=True)
    of_candidate = names(named, spec.candidate, spec.model, champion=False)
    if noted is None:
        if not of_champion:
            return Traffic(f"{named.uri}" + ("" if percent is None else f" at {percent}%"))
        revisions = Revisions(created=component.created, rolled_out=component.rolled_out, named=named)
        whole = phase(component) is Phase.PROMOTED
        return Traffic(champion, arrived=whole, lacks=_unlike(component, 100), revisions=revisions)
    if of_candidate:
        return _of_candidate(component, percent, noted, Traffic(champion, candidate, percent or 0), candidate)
    if of_champion and percent is not None:
        return Traffic(champion, champion, percent, arrived=False, lacks=_coming(component, "champion"))
    if of_champion:
        whole = phase(component) is Phase.PROMOTED and component.created != noted.candidate
        return Traffic(champion, arrived=whole, lacks=_unlike(component, 100))
    return Traffic(named.uri, arrived=False)  # another hand's


def with_word_of(pods: Sequence[Mapping[str, Any]], traffic: Traffic, candidate: str) -> Traffic:
    """The traffic as the pods of the newest revision have it: one that crashes again and again is given up, and none
    has arrived where none is ready. Without pods it is at zero, or they may not be seen. A pod that has ended for good,
    as one that was evicted, stays listed while another runs in its place."""
    down = [pod for pod in pods if not (_is_over(pod) or _is_ready(pod))]
    for pod in down:
        if traffic.candidate == candidate and (said := trouble(pod)) and readiness(pod)[2] >= CRASHES:
            return traffic.changed(failed=said)
    said = next(iter(troubles(down)), "")
    if not said or any(_is_ready(pod) for pod in pods):
        return traffic
    return traffic.changed(arrived=False, lacks=said if traffic.arrived else f"{traffic.lacks}: {said}")


def _is_over(pod: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"] or (pod.get("status") or {}).get("phase") in {"Failed", "Succeeded"}


def _is_ready(pod: Mapping[str, Any]) -> bool:
    ready, containers, _ = readiness(pod)
    return ready == containers


def _refuse_without_revisions(service: Mapping[str, Any]) -> None:
    mode, name = read_status(service).mode, service["metadata"]["name"]
    if mode in STANDARD_NAMES:
        raise InputRefused(
            f"expected InferenceService {name!r} in the mode Knative, whose revisions share the traffic, seen {mode}; "
            "roll out in place"
        )


def _of_candidate(
    component: Component, percent: int | None, noted: Revisions, split: Traffic, candidate: str
) -> Traffic:
    now = phase(component, _before(noted))
    if now is not Phase.UNSEEN:
        noted = noted.model_copy(update={"candidate": component.created})
    if percent is None:
        whole = now is Phase.PROMOTED
        return Traffic(candidate, arrived=whole, lacks=_unlike(component, 100), revisions=noted)
    there = now is (Phase.CANARY if percent else Phase.PARKED) and component.percent(component.created) == percent
    coming = now in (Phase.UNSEEN, Phase.STARTING)
    lacks = _coming(component, "candidate") if coming else _unlike(component, percent)
    return split.changed(arrived=there, lacks=lacks, revisions=noted)


def operations(service: Mapping[str, Any], rollout: ModelRollout, target: Traffic, now: datetime) -> list[Operation]:
    """The next patch; empty while something is waited for, and where another hand has named a third model."""
    spec, noted, named = rollout.spec, rollout.status.revisions, read_naming(service)
    known = any(
        names(named, each, spec.model, champion=each is spec.champion) for each in (spec.champion, spec.candidate)
    )
    if noted is None or not known:
        return []
    candidate = naming_of(spec.candidate, noted.named, spec.model)
    if target.candidate is not None:
        return renaming(service, candidate) + sharing(service, target.percent)
    if target.current == spec.candidate.version:
        return renaming(service, candidate) + sharing(service, None)
    return _way_back(service, rollout, noted, now)


def _way_back(service: Mapping[str, Any], rollout: ModelRollout, noted: Revisions, now: datetime) -> list[Operation]:
    component, percent = read_status(service).predictor, read_percent(service)
    if names(read_naming(service), rollout.spec.candidate, rollout.spec.model, champion=False):
        if percent is None:
            return sharing(service, 0)  # a promoted one: the share alone brings back the revision before it
        reached = phase(component, _before(noted))
        # Before KServe has seen the candidate, nobody can tell its revision from the champion's next one.
        unseen = reached is Phase.UNSEEN and not _patience_is_over(rollout, now)
        if unseen or reached in (Phase.PROMOTED, Phase.SETTLING, Phase.RAMPING):
            return []
        return renaming(service, noted.named) + sharing(service, 0)
    ready = bool(component.created) and component.created == component.ready
    return sharing(service, None) if ready and component.created != noted.candidate else []


def asked_by(service: Mapping[str, Any], spec: Spec) -> tuple[Asked, Asked]:
    """How champion and candidate are asked at no share of the traffic: by revision by KServe's tags, in place by name.

    Raises InputRefused where the InferenceService leaves the tags out.
    """
    champion, candidate = versions_as_served(service, spec)
    if spec.pointer is not None:
        return Asked(champion, spec.champion.digest), Asked(candidate, spec.candidate.digest)
    if (service["metadata"].get("annotations") or {}).get(TAG_ROUTING) != "true":
        raise InputRefused(
            f'expected the annotation {TAG_ROUTING}: "true" on InferenceService {spec.inference_service!r}, by which '
            "a version is asked before it has traffic, seen none; set it, or leave out backtest and shadows"
        )
    return (
        Asked(champion, spec.champion.digest, PREVIOUS_TAG),
        Asked(candidate, spec.candidate.digest, LATEST_TAG),
    )


def versions_as_served(service: Mapping[str, Any], spec: Spec) -> tuple[str, str]:
    """What the predictors call champion and candidate."""
    if spec.pointer is not None:
        return spec.champion.version, spec.candidate.version
    like = read_naming(service)
    champion, candidate = (
        answers_as(naming_of(each, like, spec.model), each) for each in (spec.champion, spec.candidate)
    )
    return champion, candidate


def _patience_is_over(rollout: ModelRollout, now: datetime) -> bool:
    since = rollout.status.since
    return since is not None and now >= since + timedelta(seconds=seconds(rollout.spec.policy.progress_deadline))


def _before(noted: Revisions) -> Component:
    return Component(created=noted.created)


def _is_of(component: Component, traffic: Traffic) -> bool:
    """Whether the newest revision is that of what comes. Until KServe has looked it is another's."""
    if traffic.candidate is None:
        return False
    if traffic.candidate == traffic.current:  # the champion, on the way back
        return component.created != component.ready
    return traffic.revisions is not None and traffic.revisions.candidate == component.created


def _coming(component: Component, whose: str) -> str:
    if component.created != component.ready:
        return f"waiting for revision {component.created} of the {whose} to become ready"
    return f"waiting for a revision of the {whose}, seen {component.created or 'none'}"


def _unlike(component: Component, percent: int) -> str:
    seen = ", ".join(f"{share.revision} {share.percent}%" for share in component.traffic) or "no traffic"
    return f"waiting for revision {component.created or 'none'} to have {percent}%, seen {seen}"
