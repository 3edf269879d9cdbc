"""What the suite of either engine applies fits the schemas of a real cluster, and `whimbrel lint` finds no fault."""

from __future__ import annotations

from pathlib import Path

from testbed import builtin_kinds
from testbed.either_objects import Object, classifier, eventing, inference_service, observing, over_grpc
from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint import lint, schemas

CRDS = Path(__file__).parents[1] / "data" / "crds"


def image(room: str) -> str:
    return f"registry.example/whimbrel/{room}:1"


def applied() -> list[Object]:
    return [
        inference_service(image, "birds"),
        inference_service(image, "sleepers", minReplicas=0),
        over_grpc(inference_service(image, "terns")),
        observing(image, "secret"),
        classifier(image, "wrens", "http://observer.either.svc.cluster.local"),
        *eventing("wrens", "either-addressable-resolver"),
    ]


def test_all_of_it_fits_its_schema() -> None:
    known = schemas.load([CRDS], frozenset({"InferenceService", "Service", "Broker", "Trigger"}))
    for found in applied():
        is_builtin = builtin_kinds.is_builtin(found)
        faults = builtin_kinds.faults(found) if is_builtin else list(schemas.faults(known, found))
        assert faults == [], found["kind"]


def test_lint_finds_no_fault() -> None:
    assert lint([Rendered(Path("either.yaml"), found) for found in applied()]) == []
