"""ReplicaSets: one of each template that a Deployment has had, to look at and to go back to; pure.

`kubectl rollout history` lists them and `kubectl rollout undo` writes the template of one back into the Deployment.
Nothing here follows from them: the pods are the Deployment's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from whimbrel.local.api.metadata import Object
from whimbrel.local.control import deployments, names
from whimbrel.local.control.deployments import PodOf
from whimbrel.local.control.world import owner_reference

REVISION = "deployment.kubernetes.io/revision"
_CHANGE_CAUSE = "kubernetes.io/change-cause"
_KEPT = 10  # Kubernetes' default
_NUMBER = re.compile(r"[0-9]{1,9}")


def number(replica_set: Object) -> int:
    """0 where anybody has annotated it with what is none."""
    said = names.annotations_of(replica_set).get(REVISION, "")
    return int(said) if _NUMBER.fullmatch(said) else 0


def latest(deployment: Object, known: Sequence[Object]) -> Object:
    """That of the template as it is now, with the highest number: one that is gone back to gets another."""
    template = deployments.template_of(deployment)
    digest = template["metadata"]["labels"][names.TEMPLATE_HASH_LABEL]
    namespace, owner = names.of(deployment)
    others = [number(each) for each in known if each["metadata"]["name"] != f"{owner}-{digest}"]
    own = [number(each) for each in known if each["metadata"]["name"] == f"{owner}-{digest}"]
    highest = max(others, default=0)
    shown = {REVISION: str(own[0] if own and own[0] > highest else highest + 1)}
    said = names.annotations_of(deployment)
    selector = deployment["spec"]["selector"]["matchLabels"] | {names.TEMPLATE_HASH_LABEL: digest}
    return {
        "metadata": {
            "name": f"{owner}-{digest}",
            "namespace": namespace,
            "labels": template["metadata"]["labels"],
            "annotations": shown | ({_CHANGE_CAUSE: said[_CHANGE_CAUSE]} if _CHANGE_CAUSE in said else {}),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": deployments.replicas(deployment),
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }


def retired(replica_set: Object, pods: Sequence[PodOf]) -> Object:
    """One of a template before: it wants what it still has."""
    return {**replica_set, "spec": {**replica_set["spec"], "replicas": len(pods)}}


def superfluous(deployment: Object, old: Iterable[Object]) -> list[Object]:
    """Of those without pods the oldest, beyond `revisionHistoryLimit`."""
    ended = sorted((each for each in old if not each["spec"]["replicas"]), key=number)
    return ended[: max(0, len(ended) - int(deployment["spec"].get("revisionHistoryLimit", _KEPT)))]


def status(replica_set: Object, pods: Sequence[PodOf]) -> dict[str, Any]:
    ready = sum(pod.ready for pod in pods)
    counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
    return {
        "observedGeneration": replica_set["metadata"].get("generation", 1),
        "replicas": len(pods),
        **{name: count for name, count in counts.items() if count},
    }
