"""Every field of an applied object is honoured, accepted with a note, or refused by its path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import render
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.local.control.door import verdict
from whimbrel.local.fields import API_VERSIONS, HONOURED, NOT_ENFORCED, check
from whimbrel.mlflow.rollout.resource import Spec

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in render(OVERLAY)}


def changed(found: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which the field at `a.b.0.c` is `value`."""
    copied = copy.deepcopy(found)
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = copied
    for part in above:
        place = place[part]
    place[last] = value
    return copied


def test_our_own_manifests_are_taken(objects: dict[str, dict[str, Any]]) -> None:
    notes = {name: check(found) for name, found in objects.items()}

    assert "spec.predictor.containers[0].securityContext" in notes["InferenceService/digits"]
    assert "spec.transformer.containerConcurrency" not in notes["InferenceService/digits"]
    assert notes["Broker/default"] == notes["Trigger/objects"] == ()


@pytest.mark.parametrize(
    ("name", "path", "value", "refused"),
    [
        ("InferenceService/digits", "spec.predictor.minReplica", 1, "spec.predictor.minReplica"),
        ("InferenceService/digits", "spec.predictor.model", {"storage": {}}, "spec.predictor.model.storage"),
        (
            "InferenceService/digits",
            "spec.predictor.containers.0.workingDir",
            "/srv",
            "spec.predictor.containers[0].workingDir",
        ),
        ("InferenceService/digits", "spec.canary", [], "spec.canary"),
        ("InferenceService/digits", "spec.predictor.volumes.0.hostPath", {}, "spec.predictor.volumes[0].hostPath"),
        ("Service/results", "spec.traffic", [{"configurationName": "a"}], "spec.traffic[0].configurationName"),
        ("Service/results", "spec.template.spec.containers.0.lifecycle", {}, "containers[0].lifecycle"),
        ("Broker/default", "spec.config", {"name": "a"}, "spec.config"),
        ("Broker/default", "spec.delivery.retries", 1, "spec.delivery.retries"),
        ("Trigger/objects", "spec.subscriber.ref.nam", "a", "spec.subscriber.ref.nam"),
        ("ContainerSource/objects", "spec.sink.CACerts", "a", "spec.sink.CACerts"),
        ("ContainerSource/objects", "metadata.finalizers", ["a"], "metadata.finalizers"),
        ("ConfigMap/embedded-store", "binaryData", {}, "binaryData"),
    ],
)
def test_what_is_not_honoured_is_refused_by_its_path(
    objects: dict[str, dict[str, Any]], name: str, path: str, value: Any, refused: str
) -> None:
    with pytest.raises(InputRefused) as error:
        check(changed(objects[name], path, value))

    assert str(error.value).startswith(name.split("/", maxsplit=1)[0])
    assert str(error.value).endswith(refused)


@pytest.mark.parametrize(
    "found",
    [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "a"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}},  # the core one
    ],
)
def test_other_kinds_are_refused_with_the_known_ones(found: dict[str, Any]) -> None:
    with pytest.raises(InputRefused, match=r"known are .*InferenceService \(serving\.kserve\.io/v1beta1\)"):
        check(found)


@pytest.mark.parametrize("found", [None, "a", {}, {"kind": "Broker", "metadata": {}}])
def test_what_is_no_object_is_refused(found: Any) -> None:
    with pytest.raises(InputRefused, match="expected an object"):
        check(found)


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("InferenceService/digits", "spec.predictor.containers", [], "spec.predictor.containers: "),
        ("InferenceService/digits", "spec.predictor.timeout", 601, "spec.predictor.timeout: "),
        ("InferenceService/digits", "spec.predictor.canaryTrafficPercent", 101, "canaryTrafficPercent: "),
        ("InferenceService/digits", "spec.predictor.minReplicas", 3, "spec.predictor: expected minReplicas of at most"),
        ("InferenceService/digits", "spec.predictor.scaleMetric", "cpu", "spec.predictor.scaleMetric: "),
        ("Service/results", "spec.traffic", [{"percent": 99, "latestRevision": True}], "add up to 100, seen 99"),
        ("Broker/default", "spec.delivery.backoffDelay", "1s", "spec.delivery.backoffDelay: expected an ISO-8601"),
        ("Broker/default", "spec.delivery.retry", 101, "spec.delivery.retry: "),
        ("Trigger/objects", "spec.delivery", {"timeout": "PT20M"}, "spec.delivery.timeout: expected more than 0"),
        ("Trigger/objects", "spec.filters", [{"cesql": "a"}], "filters"),
        ("InferenceService/digits", "spec.predictor.containers.0.args", "one", "spec.predictor.containers[0].args: "),
        ("InferenceService/digits", "metadata.name", "Digits", "metadata.name: "),
        ("Trigger/objects", "spec.subscriber.ref.kind", "Channel", "spec.subscriber.ref.kind: "),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(
    objects: dict[str, dict[str, Any]], name: str, path: str, value: Any, said: str
) -> None:
    with pytest.raises(InputRefused) as error:
        verdict(changed(objects[name], path, value))

    assert said in str(error.value)


def test_the_table_has_every_kind_and_no_path_twice() -> None:
    assert API_VERSIONS.keys() == HONOURED.keys() == NOT_ENFORCED.keys()
    for kind in API_VERSIONS:
        assert not set(HONOURED[kind]) & set(NOT_ENFORCED[kind]), kind


def test_every_field_of_a_rollout_is_taken() -> None:
    """As `whimbrel rollout start` writes it: what a version says of itself grows in another room."""
    rollout = {"apiVersion": "rollout.whimbrel.dev/v1", "kind": "ModelRollout", "metadata": {"name": "digits-2"}}
    version = dict.fromkeys(PointedVersion.model_fields, "any")
    spec: dict[str, Any] = {to_camel(name): "any" for name in Spec.model_fields}
    assert check({**rollout, "spec": spec | {"candidate": version, "champion": version}}) == ()
