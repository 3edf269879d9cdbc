"""Every object of the manifests is what the CRDs of KServe and Knative take, no unknown field among it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from whimbrel.core.kustomize import render
from whimbrel.kube.lint.schemas import Schemas, faults, load
from whimbrel.local.broker.durations import parse_duration

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "tests" / "data" / "crds"
OVERLAYS = [ROOT / "manifests" / "base", *sorted((ROOT / "manifests" / "overlays").iterdir())]
KINDS = frozenset({"InferenceService", "Broker", "Trigger", "Service", "ContainerSource"})
OUR_ROOMS = {"predictors", "transformers", "eventing"}


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return load([CRDS], KINDS)


def custom(folder: Path) -> list[dict[str, Any]]:
    return [found for found in render(folder) if found["kind"] not in ("ConfigMap", "ClusterRole")]


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_object_fits_its_crd(schemas: Schemas, folder: Path) -> None:
    found = custom(folder)

    wrong = {f"{o['kind']} {o['metadata']['name']}": faults(schemas, o) for o in found}

    assert {name: lines for name, lines in wrong.items() if lines} == {}
    assert {o["kind"] for o in found} == KINDS


def test_a_misspelt_field_is_a_fault(schemas: Schemas) -> None:
    service = copy.deepcopy(next(o for o in custom(OVERLAYS[0]) if o["kind"] == "InferenceService"))
    service["spec"]["predictor"]["minReplica"] = 1

    assert any("minReplica" in message for _, message in faults(schemas, service))


def pods(folder: Path) -> dict[str, dict[str, Any]]:
    """Every pod template, by the object and component that it belongs to."""
    found: dict[str, dict[str, Any]] = {}
    for o in custom(folder):
        name = f"{o['kind']}/{o['metadata']['name']}"
        if o["kind"] == "InferenceService":
            found |= {f"{name}/{component}": o["spec"][component] for component in ("predictor", "transformer")}
        elif "template" in o["spec"]:
            found[name] = o["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_container_is_restricted(folder: Path) -> None:
    found = pods(folder)
    assert len(found) == 5

    for name, pod in found.items():
        assert "securityContext" not in pod, f"{name}: Knative refuses a pod-level securityContext"
        assert pod["automountServiceAccountToken"] is False, name
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["resources"].keys() == {"requests", "limits"}, name
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], name


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_settings_and_secrets_come_by_reference_and_images_by_name(folder: Path) -> None:
    for name, pod in pods(folder).items():
        (container,) = pod["containers"]
        references = [{"configMapRef": {"name": "whimbrel-settings"}}, {"secretRef": {"name": "whimbrel-s3"}}]
        assert container["envFrom"] == references, name
        assert not [entry for entry in container.get("env", []) if "SECRET" in entry["name"]], name
        repository, room = container["image"].partition(":")[0].split("/")
        assert repository == "whimbrel", name
        assert room in OUR_ROOMS, name
        assert "command" not in container, f"{name}: the image's entry point is the room itself"


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_server_listens_where_its_pod_is_reached(folder: Path) -> None:
    for name, pod in pods(folder).items():
        (container,) = pod["containers"]
        values = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        assert values.get("WHIMBREL_HTTP_HOST") == "0.0.0.0", name  # noqa: S104
        assert len(values) == len(container["env"]), f"{name}: a variable that is set twice"


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_a_transformer_with_a_concurrency_limit_names_its_workers(folder: Path) -> None:
    transformer = pods(folder)["InferenceService/digits/transformer"]

    assert transformer["containerConcurrency"] > 0
    assert "--workers=1" in transformer["containers"][0]["args"], "KServe appends --workers=<limit> otherwise"


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_the_source_waits_longer_than_all_attempts_of_the_broker(folder: Path) -> None:
    (broker,) = (o for o in custom(folder) if o["kind"] == "Broker")
    delivery = broker["spec"]["delivery"]
    pauses = sum(parse_duration(delivery["backoffDelay"]) * 2**retries for retries in range(delivery["retry"]))
    attempts = (delivery["retry"] + 1) * parse_duration(delivery["timeout"])
    (source,) = (pod["containers"][0] for name, pod in pods(folder).items() if name == "ContainerSource/objects")
    (waits,) = (float(each["value"]) for each in source["env"] if each["name"] == "WHIMBREL_SINK_TIMEOUT_SECONDS")

    assert pauses > 180, "an outage of a few minutes is waited out"
    assert 2 * (pauses + attempts) < waits <= 3600, "the subscriber's attempts, and the dead-letter sink's"
