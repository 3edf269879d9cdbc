"""The renderer of `whimbrel up` gives what `kubectl kustomize` gives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from whimbrel.core.errors import SettingsError
from whimbrel.local.kustomize import render

ROOT = Path(__file__).parents[2]
FOLDERS = [
    ROOT / "manifests" / "base",
    ROOT / "manifests" / "overlays" / "local",
    ROOT / "tests" / "data" / "overlays" / "null",
]


def by_identity(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in objects}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_equals_kubectl_kustomize(folder: Path) -> None:
    output = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, check=True, timeout=60).stdout
    expected = by_identity(list(yaml.safe_load_all(output)))

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
        ("resources: [object.yaml]\npatches: [{path: patch.yaml}]", "expected a target"),
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
        ("[a, b]", "expected one YAML mapping"),
        ("resources: [", "kustomization.yaml"),
    ],
)
def test_refuses_what_it_does_not_honour(tmp_path: Path, kustomization: str, named: str) -> None:
    folder = write(tmp_path, kustomization=kustomization, object=OBJECT)

    with pytest.raises(SettingsError, match=r"kustomization\.yaml") as refused:
        render(folder)

    assert named in str(refused.value)


def test_names_a_folder_without_manifests(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected .*kustomization\.yaml, seen none; give a folder"):
        render(tmp_path / "absent")


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
