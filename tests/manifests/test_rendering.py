"""The renderer of `whimbrel up` gives what `kubectl kustomize` gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from whimbrel.core.errors import SettingsError
from whimbrel.core.kustomize import render

ROOT = Path(__file__).parents[2]
FOLDERS = [
    ROOT / "manifests" / "base",
    ROOT / "manifests" / "overlays" / "local",
    ROOT / "tests" / "data" / "overlays" / "null",
]


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def by_identity(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in objects}


def by_kubectl(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    output = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, check=True, timeout=60).stdout
    return by_identity(list(yaml.safe_load_all(output)))


@needs_kubectl
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_equals_kubectl_kustomize(folder: Path) -> None:
    expected = by_kubectl(folder)

    assert by_identity(render(folder)) == expected
    assert len(expected) >= 8


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder


OBJECT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: one}
data: {a: b}
"""


@pytest.mark.parametrize(
    ("kustomization", "named"),
    [
        ("resources: [object.yaml]\ncommonLabels: {a: b}", "field 'commonLabels' is not supported"),
        ("resources: [absent.yaml]", "absent.yaml, which"),
        ("resources: [object.yaml, object.yaml]", "ConfigMap 'one' occurs twice"),
        ("resources: [object.yaml]\nimages: [{name: a, tagSuffix: b}]", "field 'tagSuffix' is not supported"),
        ("resources: [object.yaml]\npatches: [{patch: '[]'}]", "expected a target"),
        (
            "resources: [object.yaml]\npatches: [{target: {kind: Secret}, patch: '[]'}]",
            "no object matches the target",
        ),
        (
            "resources: [object.yaml]\npatches: [{target: {kind: ConfigMap}, patch: 'data: {a: c}'}]",
            "seen a strategic merge patch",
        ),
        (
            "resources: [object.yaml]\n"
            "patches: [{target: {kind: ConfigMap}, patch: '[{op: replace, path: /x/y, value: 1}]'}]",
            "patches: ",
        ),
        ("configMapGenerator: [{name: made, literals: [a=b]}]", "expected options.disableNameSuffixHash: true"),
        ("resources: [object.yaml]\ncomponents: [.]", "leads back to itself"),
        ("kind: Component\nresources: [object.yaml]", "expected kind Kustomization, seen Component"),
        ("resources: [.]", "leads back to itself"),
        ("resources: object.yaml", "resources: expected a list of paths"),
        ("patches: [a]", "patches: expected a list of mappings"),
        ("resources: [object.yaml]\nnamespace: n", "namespace: expected a text, seen False; put it in quotes"),
        ("[a, b]", "expected one YAML mapping"),
        ("resources: [", "kustomization.yaml"),
    ],
)
def test_refuses_what_it_does_not_honour(tmp_path: Path, kustomization: str, named: str) -> None:
    folder = write(tmp_path, kustomization=kustomization, object=OBJECT)

    with pytest.raises(SettingsError, match=r"kustomization\.yaml") as refused:
        render(folder)

    assert named in str(refused.value)


@pytest.mark.parametrize(
    "kustomization",
    [
        "configMapGenerator: [{options: {disableNameSuffixHash: true}}]",
        "configMapGenerator: [{name: a, literals: [7], options: {disableNameSuffixHash: true}}]",
        "configMapGenerator: [{name: a, options: {disableNameSuffixHash: true, labels: x}}]",
        "configMapGenerator: [{name: a, options: 7}]",
        "patches: [{target: {kind: Pod}}]",
        "patches: [{target: {kind: Pod}, patch: '{'}]",
        "{resources: [pod.yaml], patches: [{target: {kind: '['}, patch: '[]'}]}",
        "{resources: [pod.yaml], patches: [{target: {kind: Pod}, patch: 7}]}",
        "{resources: [pod.yaml], images: [{newName: b}]}",
    ],
)
def test_a_wrong_shape_is_named_by_its_file(tmp_path: Path, kustomization: str) -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a}]}}"
    (tmp_path / "pod.yaml").write_text(pod)
    (tmp_path / "kustomization.yaml").write_text(kustomization)
    with pytest.raises(SettingsError, match=r"kustomization\.yaml: malformed"):
        render(tmp_path)


def test_names_a_folder_without_manifests(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected .*kustomization\.yaml, seen none; give a folder"):
        render(tmp_path / "absent")


COMPONENT = """
kind: Component
apiVersion: kustomize.config.k8s.io/v1alpha1
resources: [added.yaml]
configMapGenerator:
  - {name: made, files: [words=added.yaml], literals: [a=b=c], options: {disableNameSuffixHash: true, labels: {l: m}}}
patches:
  - target: {kind: ConfigMap, name: one}
    patch: '[{"op": "replace", "path": "/data/a", "value": "z"}]'
  - patch: |-
      $patch: delete
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: two}
"""
ADDED = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: whimbrel/eventing}]}}"


@pytest.fixture
def with_component(tmp_path: Path) -> Path:
    """A kustomization whose component adds, generates, patches and deletes; its own images reach what was added."""
    write(tmp_path / "component", kustomization=COMPONENT, added=ADDED)
    images = "[{name: whimbrel/eventing, newTag: '1'}]"
    own = f"resources: [object.yaml]\ncomponents: [component]\nnamespace: own\nimages: {images}"
    return write(tmp_path, kustomization=own, object=f"{OBJECT}---{OBJECT.replace('one', 'two')}")


def test_a_component_reaches_what_was_there_before_it(with_component: Path) -> None:
    found = by_identity(render(with_component))

    assert found.keys() == {("ConfigMap", "own", "one"), ("Pod", "own", "p"), ("ConfigMap", "own", "made")}
    assert found["ConfigMap", "own", "one"]["data"] == {"a": "z"}
    assert found["ConfigMap", "own", "made"]["data"] == {"words": ADDED, "a": "b=c"}
    assert found["Pod", "own", "p"]["spec"]["containers"][0]["image"] == "whimbrel/eventing:1"


@needs_kubectl
def test_a_component_equals_kubectl_kustomize(with_component: Path) -> None:
    assert by_identity(render(with_component)) == by_kubectl(with_component)


@pytest.mark.parametrize(
    ("image", "change", "expected"),
    [
        ("whimbrel/eventing", {"newTag": "1"}, "whimbrel/eventing:1"),
        ("whimbrel/eventing:0", {"newName": "host:5000/w/eventing"}, "host:5000/w/eventing:0"),
        ("whimbrel/eventing:0", {"digest": "sha256:ab"}, "whimbrel/eventing@sha256:ab"),
        ("host:5000/whimbrel/eventing:0", {"newTag": "1"}, "host:5000/whimbrel/eventing:0"),
    ],
)
def test_images_are_renamed_in_one_place(tmp_path: Path, image: str, change: dict[str, str], expected: str) -> None:
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, image: '{image}'}}]}}"
    changes = yaml.safe_dump({"resources": ["pod.yaml"], "images": [{"name": "whimbrel/eventing", **change}]})

    (rendered,) = render(write(tmp_path, kustomization=changes, pod=pod))

    assert rendered["spec"]["containers"][0]["image"] == expected
