"""Every object is what its CRD, or Kubernetes itself, takes, no unknown field among it; every pod is restricted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import builtin_kinds
from testbed.combinations import COMBINATIONS, EXAMPLES, Combination, rendered
from whimbrel.core.kustomize import render
from whimbrel.kube.lint.rule import Manifests
from whimbrel.kube.lint.schemas import Schemas, faults, load
from whimbrel.kube.lint.workloads import KNATIVE, Pod, pods

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "tests" / "data" / "crds"
BASE = ROOT / "manifests" / "base"
ALL = [*COMBINATIONS, *EXAMPLES]
WITH_CRD = frozenset(
    {"InferenceService", "ServingRuntime", "ClusterStorageContainer", "InferenceGraph", "Broker", "Trigger", "Service"}
    | {"ContainerSource", "SinkBinding", "RabbitmqBrokerConfig", "PrometheusRule"}
)
OUR_IMAGES = {"predictors", "predictors-cuda", "transformers", "eventing", "mlflow"}
ROLLOUTS = "Deployment/rollouts"  # talks to the Kubernetes API, and serves nothing

each_combination = pytest.mark.parametrize("combination", ALL, ids=str)


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return load([CRDS], WITH_CRD)


@each_combination
def test_every_object_fits_its_schema(schemas: Schemas, combination: Combination) -> None:
    found = [each.object for each in rendered(combination)]
    own = {f"{o['kind']} {o['metadata']['name']}": _faults(schemas, o) for o in found}

    assert {name: lines for name, lines in own.items() if lines} == {}
    assert own


def _faults(schemas: Schemas, found: dict[str, Any]) -> list[str]:
    if builtin_kinds.is_builtin(found):
        return builtin_kinds.faults(found)
    return [f"{path}: {message}" for path, message in faults(schemas, found)]


def test_a_misspelt_field_is_a_fault(schemas: Schemas) -> None:
    service = copy.deepcopy(next(o for o in render(BASE) if o["kind"] == "InferenceService"))
    service["spec"]["predictor"]["minReplica"] = 1
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "automount": False}

    assert any("minReplica" in line for line in _faults(schemas, service))
    assert _faults(schemas, account) == ["automount: unknown field"]


def ours(combination: Combination) -> Iterator[tuple[str, Pod, dict[str, Any]]]:
    """Every pod with one container of an image of ours, and that container."""
    for pod in pods(Manifests(rendered(combination))):
        for path, container in pod.containers():
            if "whimbrel/" in str(container.get("image", "")):
                found = pod.document.object
                yield f"{found['kind']}/{found['metadata']['name']} {path}", pod, dict(container)


@each_combination
def test_every_container_is_restricted(combination: Combination) -> None:
    for name, pod, container in ours(combination):
        automount = pod.spec.get("automountServiceAccountToken")
        assert automount is False or name.startswith(("ServingRuntime", ROLLOUTS)), name
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["resources"].keys() == {"requests", "limits"}, name
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], name
        if not name.startswith(ROLLOUTS):
            assert container["readinessProbe"]["httpGet"]["path"] != "/v2/health/live", f"{name}: live is not ready"


@each_combination
def test_settings_and_secrets_come_by_reference_and_images_by_name(combination: Combination) -> None:
    for name, _, container in ours(combination):
        assert {"configMapRef": {"name": "whimbrel-settings"}} in container["envFrom"], name
        for entry in container["env"]:
            assert "valueFrom" in entry or not {"SECRET", "PASSWORD", "TOKEN", "KEY"} & set(entry["name"].split("_")), (
                name
            )
        repository, _, room = container["image"].partition(":")[0].rpartition("/")
        assert repository == "whimbrel", name
        assert room in OUR_IMAGES, name
        assert "command" not in container, f"{name}: the image's entry point is the room itself"
    secrets = [each.object for each in rendered(combination) if each.object["kind"] == "Secret"]
    assert secrets == [], "secrets are made by their owner"


@each_combination
def test_every_server_listens_where_its_pod_is_reached(combination: Combination) -> None:
    for name, _, container in ours(combination):
        values = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert values.get("WHIMBREL_HTTP_HOST") == "0.0.0.0" or name.startswith(ROLLOUTS), name  # noqa: S104
        assert len(values) == len(container["env"]), f"{name}: a variable that is set twice"


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_what_knative_serves_has_one_way_to_the_images(combination: Combination) -> None:
    """Every image of ours has the tag of components/images: none was added behind it."""
    tags = {container["image"].partition(":")[2] for _, _, container in ours(combination)}

    assert tags == {"0.1.0"}


def test_the_standard_overlay_needs_no_knative_serving() -> None:
    (standard,) = (each for each in COMBINATIONS if str(each) == "standard")

    assert [o for o in (each.object for each in rendered(standard)) if o["apiVersion"].startswith(KNATIVE)] == []
