"""What of manifests/ is applied together: overlays, overlays with components that fit them, and each example."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from whimbrel.core.kustomize import Rendered, read_objects, render_files

MANIFESTS = Path(__file__).parents[3] / "manifests"
_GPU_NODES = ("kubernetes.podspec-tolerations", "kubernetes.podspec-nodeselector")


@dataclass(frozen=True, slots=True)
class Combination:
    """A folder of manifests with more components, or with files beside it, for a cluster with these feature flags."""

    folder: str
    components: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((Path(self.folder).name, *self.components, *(Path(file).stem for file in self.files)))


def _overlay(name: str, *components: str, features: tuple[str, ...] = ()) -> Combination:
    return Combination(f"overlays/{name}", components, features=features)


SOURCES = tuple(sorted(path.name for path in MANIFESTS.glob("components/source-*")))
COMBINATIONS = [
    *(_overlay(path.name) for path in sorted((MANIFESTS / "overlays").iterdir())),
    _overlay("knative-cpu", "grpc"),
    _overlay("knative-cpu", "kafka-broker"),
    _overlay("knative-cpu", "rabbitmq-broker"),
    _overlay("knative-cpu", "storage-container"),
    _overlay("knative-cpu", "prometheus"),
    _overlay("knative-cpu", "pictures", "images"),
    _overlay("knative-cpu", "rollout-controller", "images"),
    _overlay("knative-cpu", "rollout-controller", "rollout-challengers", "rollout-webhook", "images"),
    _overlay("knative-gpu", "grpc", "kafka-broker", "storage-container", "prometheus"),
    _overlay("knative-gpu", "gpu-nodes", features=_GPU_NODES),
    _overlay("standard", "kafka-broker", "storage-container", "prometheus"),
    _overlay("standard", "gpu", "gpu-nodes", "images"),
    *(Combination("base", ("cluster", source, "images")) for source in SOURCES),
]
EXAMPLES = [
    Combination("overlays/knative-cpu", ("storage-container",), files=(f"examples/{path.name}",))
    for path in sorted((MANIFESTS / "examples").glob("*.yaml"))
    if path.name != "kustomization.yaml"
]


def write(combination: Combination, folder: Path) -> Path:
    """`folder` with a kustomization of it all, as a user writes one beside the overlays."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "default" if combination.folder == "overlays/local" else "whimbrel",
        "resources": [_relative(MANIFESTS / combination.folder, folder)],
        "components": [_relative(MANIFESTS / "components" / name, folder) for name in combination.components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@cache
def rendered(combination: Combination) -> tuple[Rendered, ...]:
    """Every object of a combination; to be read only."""
    with TemporaryDirectory() as folder:
        found = render_files(write(combination, Path(folder)))
    return (*found, *(each for file in combination.files for each in read_objects(MANIFESTS / file)))


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder.resolve())
