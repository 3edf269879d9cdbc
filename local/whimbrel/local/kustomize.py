"""Renders the small part of kustomize that this project's manifests use, so that `whimbrel up` needs no kubectl.

Taken: resources, namespace, images (newName, newTag, digest) and patches in JSON 6902 with a target of kind and
name. Every other field is refused by its path; `kubectl kustomize` gives the same objects.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonpatch
import yaml
from jsonpointer import JsonPointerException

from whimbrel.core.errors import SettingsError

Object = dict[str, Any]

_FILE = "kustomization.yaml"
_KNOWN = frozenset({"apiVersion", "kind", "resources", "namespace", "images", "patches"})
_IMAGE_FIELDS = frozenset({"name", "newName", "newTag", "digest"})
_TARGET_FIELDS = frozenset({"group", "version", "kind", "name"})
_CLUSTER_SCOPED = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "Namespace", "CustomResourceDefinition", "PriorityClass"}
    | {"ClusterServingRuntime", "ClusterStorageContainer", "StorageClass", "PersistentVolume"}
)


def render(folder: Path) -> list[Object]:
    """The objects of one kustomization, in the order of its resources.

    Raises SettingsError, with the file and the field, for what is missing, malformed or not supported here.
    """
    file = folder / _FILE
    if not file.is_file():
        raise SettingsError(
            f"expected {file}, seen none; give a folder with manifests, such as manifests/overlays/local"
        )
    kustomization = _load_one(file)
    _refuse_unknown(kustomization, _KNOWN, str(file))
    objects = [found for resource in kustomization.get("resources", []) for found in _resource(folder, resource)]
    for patch in kustomization.get("patches", []):
        _patch(objects, patch, folder, f"{file}: patches")
    for image in kustomization.get("images", []):
        _refuse_unknown(image, _IMAGE_FIELDS, f"{file}: images")
        for container in _containers(objects):
            container["image"] = _renamed(container["image"], image)
    if namespace := kustomization.get("namespace"):
        for found in objects:
            if found["kind"] not in _CLUSTER_SCOPED:
                found["metadata"]["namespace"] = namespace
    _refuse_duplicates(objects, file)
    return objects


def _resource(folder: Path, resource: str) -> list[Object]:
    path = folder / resource
    if path.is_dir():
        return render(path)
    if not path.is_file():
        raise SettingsError(f"expected {path}, which {folder / _FILE} names as a resource; seen none")
    objects = [document for document in _load(path) if document is not None]
    for found in objects:
        if not isinstance(found, dict) or not found.get("kind") or not found.get("metadata", {}).get("name"):
            raise SettingsError(f"{path}: expected objects with kind and metadata.name")
    return objects


def _patch(objects: list[Object], patch: Mapping[str, Any], folder: Path, where: str) -> None:
    _refuse_unknown(patch, frozenset({"target", "patch", "path"}), where)
    target = patch.get("target")
    if not target:
        raise SettingsError(f"{where}: expected a target of kind and name; only JSON 6902 patches are supported here")
    _refuse_unknown(target, _TARGET_FIELDS, f"{where}.target")
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
    operations = yaml.safe_load(text)
    if not isinstance(operations, list):
        raise SettingsError(f"{where}: expected a list of JSON 6902 operations, seen a strategic merge patch")
    matching = [index for index, found in enumerate(objects) if _matches(found, target)]
    if not matching:
        raise SettingsError(f"{where}: no object matches the target {dict(target)}")
    for index in matching:
        try:
            # Values are copied: operations may come from YAML anchors.
            objects[index] = jsonpatch.apply_patch(objects[index], copy.deepcopy(operations))
        except (jsonpatch.JsonPatchException, JsonPointerException) as error:
            raise SettingsError(f"{where}: {error} (target {dict(target)})") from None


def _matches(found: Object, target: Mapping[str, str]) -> bool:
    """Kind and name are anchored regular expressions, as in kustomize."""
    group, _, version = found["apiVersion"].rpartition("/")
    seen = {"group": group, "version": version, "kind": found["kind"], "name": found["metadata"]["name"]}
    return all(re.fullmatch(wanted, seen[field]) for field, wanted in target.items())


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    """Every container with an image, wherever `containers` or `initContainers` lies."""
    if isinstance(value, list):
        for item in value:
            yield from _containers(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("containers", "initContainers") and isinstance(item, list):
                yield from (entry for entry in item if isinstance(entry, dict) and "image" in entry)
            else:
                yield from _containers(item)


def _renamed(image: str, change: Mapping[str, str]) -> str:
    name, _, digest = image.partition("@")
    tag = ""
    if ":" in name.rpartition("/")[2]:
        name, _, tag = name.rpartition(":")
    if name != change["name"]:
        return image
    name = change.get("newName", name)
    if "digest" in change:
        return f"{name}@{change['digest']}"
    if "newTag" in change:
        return f"{name}:{change['newTag']}"
    return name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _refuse_unknown(mapping: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise SettingsError(
            f"{where}: field {unknown[0]!r} is not supported here; known are {', '.join(sorted(known))}"
        )


def _refuse_duplicates(objects: list[Object], file: Path) -> None:
    seen: set[tuple[str, str, str, str]] = set()
    for found in objects:
        metadata = found["metadata"]
        identity = (found["apiVersion"], found["kind"], metadata.get("namespace", ""), metadata["name"])
        if identity in seen:
            raise SettingsError(f"{file}: {found['kind']} {metadata['name']!r} occurs twice")
        seen.add(identity)


def _load(file: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: {error}") from None


def _load_one(file: Path) -> dict[str, Any]:
    documents = _load(file)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise SettingsError(f"{file}: expected one YAML mapping")
    return documents[0]
