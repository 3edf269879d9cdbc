"""Renders the part of kustomize that this project's manifests use, so that one machine and lint need no kubectl.

Taken: resources, components, namespace, images (newName, newTag, digest), configMapGenerator (files and literals,
without a hash in the name), and patches: JSON 6902 with a target, or `$patch: delete` of whole objects. Every other
field is refused by its path; `kubectl kustomize` gives the same objects.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonpatch
import yaml
from jsonpointer import JsonPointerException

from whimbrel.core.errors import SettingsError

Object = dict[str, Any]

FILE = "kustomization.yaml"
_KNOWN = frozenset(
    {"apiVersion", "kind", "resources", "components", "namespace", "images", "patches", "configMapGenerator"}
)
_LISTS = {
    **dict.fromkeys(("resources", "components"), ("paths", str)),
    **dict.fromkeys(("images", "patches", "configMapGenerator"), ("mappings", dict)),
}
_IMAGE_FIELDS = frozenset({"name", "newName", "newTag", "digest"})
_TARGET_FIELDS = frozenset({"group", "version", "kind", "name"})
_GENERATOR_FIELDS = frozenset({"name", "files", "literals", "options"})
_OPTION_FIELDS = frozenset({"disableNameSuffixHash", "labels", "annotations"})
_CLUSTER_SCOPED = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "Namespace", "CustomResourceDefinition", "PriorityClass"}
    | {"ClusterServingRuntime", "ClusterStorageContainer", "StorageClass", "PersistentVolume"}
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads y and n as kubectl does, as true and false: YAML 1.1 says so, and PyYAML leaves them out."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))
_Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}


class NotSupported(SettingsError):
    """A part of kustomize that only kubectl renders."""


@dataclass(slots=True)
class Rendered:
    """An object as it is after all patches, and the file that it was first written in."""

    file: Path
    object: Object


def render(folder: Path) -> list[Object]:
    """The objects of one kustomization, in the order of its resources.

    Raises SettingsError, with the file and the field, for what is missing or malformed; NotSupported for what is not
    rendered here.
    """
    return [found.object for found in render_files(folder)]


def render_files(folder: Path) -> list[Rendered]:
    """`render`, with the file of each object."""
    return _rendered(folder, ())


def _rendered(folder: Path, within: tuple[Path, ...]) -> list[Rendered]:
    found: list[Rendered] = []
    _accumulate(folder, found, within, kind="Kustomization")
    return found


def _accumulate(folder: Path, found: list[Rendered], within: tuple[Path, ...], *, kind: str) -> None:
    """Add what `folder` names to `found`; a component's patches reach all that was found before it.

    `within` are the folders that led here.
    """
    file = folder / FILE
    try:
        _take_in(file, found, within, kind=kind)
    except (KeyError, TypeError, AttributeError, ValueError, re.error, yaml.YAMLError, RecursionError) as error:
        seen = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise SettingsError(f"{file}: malformed, or names what is malformed ({seen})") from None


def _take_in(file: Path, found: list[Rendered], within: tuple[Path, ...], *, kind: str) -> None:
    folder = file.parent
    if not file.is_file():
        raise SettingsError(
            f"expected {file}, seen none; give a folder with manifests, such as manifests/overlays/local"
        )
    if folder.resolve() in within:
        raise SettingsError(f"{file}: leads back to itself; take it out of its own resources or components")
    within = (*within, folder.resolve())
    kustomization = _kustomization(file)
    if (seen := kustomization.get("kind", "Kustomization")) != kind:
        raise SettingsError(f"{file}: expected kind {kind}, seen {seen}; components belong to the field 'components'")
    for resource in kustomization.get("resources", []):
        found += _resource(folder, resource, within)
    found += [_generated(folder, entry, file) for entry in kustomization.get("configMapGenerator", [])]
    for component in kustomization.get("components", []):
        _accumulate(folder / component, found, within, kind="Component")
    for patch in kustomization.get("patches", []):
        _patch(found, patch, folder, f"{file}: patches")
    if namespace := kustomization.get("namespace"):
        _set_namespace(found, namespace)
    for image in kustomization.get("images", []):
        _refuse_unknown(image, _IMAGE_FIELDS, f"{file}: images")
        for container in _containers([each.object for each in found]):
            container["image"] = _renamed(container["image"], image)
    _refuse_duplicates(found, file)


def _kustomization(file: Path) -> dict[str, Any]:
    """What the file says, each field that it has in its right shape."""
    found = {field: value for field, value in _load_one(file).items() if value is not None}
    _refuse_unknown(found, _KNOWN, str(file))
    for field, (shape, item) in _LISTS.items():
        if not isinstance(found.get(field, []), list) or not all(
            isinstance(each, item) for each in found.get(field, [])
        ):
            raise SettingsError(f"{file}: {field}: expected a list of {shape}")
    if not isinstance(found.get("namespace", ""), str):
        raise SettingsError(f"{file}: namespace: expected a text, seen {found['namespace']!r}; put it in quotes")
    return found


def _resource(folder: Path, resource: str, within: tuple[Path, ...]) -> list[Rendered]:
    path = folder / resource
    if path.is_dir():
        return _rendered(path, within)
    if not path.is_file():
        raise SettingsError(f"expected {path}, which {folder / FILE} names as a resource; seen none")
    return read_objects(path)


def read_objects(path: Path) -> list[Rendered]:
    """The objects of one file of YAML documents. Raises SettingsError with the file."""
    objects = [document for document in _load(path) if document is not None]
    for found in objects:
        if not isinstance(found, dict) or not _has_identity(found):
            raise SettingsError(f"{path}: expected objects with apiVersion, kind and metadata.name")
    return [Rendered(path, found) for found in objects]


def _has_identity(found: Object) -> bool:
    metadata = found.get("metadata")
    return bool(found.get("apiVersion") and found.get("kind") and isinstance(metadata, dict) and metadata.get("name"))


def _generated(folder: Path, entry: Mapping[str, Any], file: Path) -> Rendered:
    where = f"{file}: configMapGenerator"
    _refuse_unknown(entry, _GENERATOR_FIELDS, where)
    options = entry.get("options", {})
    _refuse_unknown(options, _OPTION_FIELDS, f"{where}.options")
    if options.get("disableNameSuffixHash") is not True:
        raise NotSupported(f"{where}: expected options.disableNameSuffixHash: true; no hashes are added here")
    values = dict(literal.partition("=")[::2] for literal in entry.get("literals", []))
    for named in entry.get("files", []):
        key, _, path = named.rpartition("=")
        values[key or Path(path).name] = _read(folder / path)
    marks = {field: dict(options[field]) for field in ("labels", "annotations") if field in options}
    metadata = {"name": entry["name"], **marks}
    return Rendered(file, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values})


def _set_namespace(found: list[Rendered], namespace: str) -> None:
    for each in found:
        if each.object["kind"] not in _CLUSTER_SCOPED:
            each.object["metadata"]["namespace"] = namespace
        for subject in each.object.get("subjects", []):
            if subject.get("kind") == "ServiceAccount":
                subject["namespace"] = namespace


def _patch(found: list[Rendered], patch: Mapping[str, Any], folder: Path, where: str) -> None:
    _refuse_unknown(patch, frozenset({"target", "patch", "path"}), where)
    operations = yaml.safe_load(patch["patch"] if "patch" in patch else _read(folder / patch["path"]))
    target = patch.get("target") or (_target_of(operations) if isinstance(operations, dict) else None)
    if not target:
        raise NotSupported(f"{where}: expected a target of kind and name for a JSON 6902 patch")
    _refuse_unknown(target, _TARGET_FIELDS, f"{where}.target")
    matching = [each for each in found if _matches(each.object, target)]
    if not matching:
        raise SettingsError(f"{where}: no object matches the target {dict(target)}")
    if isinstance(operations, dict):
        if operations.get("$patch") != "delete":
            raise NotSupported(f"{where}: expected a list of JSON 6902 operations, seen a strategic merge patch")
        found[:] = [each for each in found if not _matches(each.object, target)]
        return
    for each in matching:
        try:
            # Values are copied: operations may come from YAML anchors.
            each.object = jsonpatch.apply_patch(each.object, copy.deepcopy(operations))
        except (jsonpatch.JsonPatchException, JsonPointerException) as error:
            raise SettingsError(f"{where}: {error} (target {dict(target)})") from None


def _target_of(patch: Mapping[str, Any]) -> dict[str, str]:
    """What a patch of a whole object is for: the object that it names itself."""
    if not _has_identity(dict(patch)):
        return {}
    group, _, version = patch["apiVersion"].rpartition("/")
    return {"group": group, "version": version, "kind": patch["kind"], "name": patch["metadata"]["name"]}


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
        raise NotSupported(f"{where}: field {unknown[0]!r} is not supported here; known are {', '.join(sorted(known))}")


def _refuse_duplicates(found: list[Rendered], file: Path) -> None:
    seen: set[tuple[str, str, str, str]] = set()
    for each in found:
        kind, metadata = each.object["kind"], each.object["metadata"]
        identity = (each.object["apiVersion"], kind, metadata.get("namespace", ""), metadata["name"])
        if identity in seen:
            raise SettingsError(f"{file}: {kind} {metadata['name']!r} occurs twice")
        seen.add(identity)


def _load(file: Path) -> list[Any]:
    try:
        return list(yaml.load_all(_read(file), Loader=_Loader))
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{file}: {error}") from None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from None


def _load_one(file: Path) -> dict[str, Any]:
    documents = _load(file)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise SettingsError(f"{file}: expected one YAML mapping")
    return documents[0]
