"""Strict validation against CRDs, as `kubectl apply --validate=strict`: a field that they do not know is a fault.

Taken from the CRDs' openAPI schemas. Their CEL rules (x-kubernetes-validations) are not evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from whimbrel.core.errors import SettingsError
from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error

Schemas = dict[tuple[str, str], dict[str, Any]]

_ROOT_FIELDS = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


def load(places: Iterable[Path], kinds: frozenset[str]) -> Schemas:
    """The schemas of `kinds` in files and folders of CRDs, by apiVersion and kind.

    Raises SettingsError for a file that is no YAML.
    """
    files = [
        file
        for place in places
        for file in ([place] if place.is_file() else sorted((*place.rglob("*.yaml"), *place.rglob("*.yml"))))
    ]
    return {identity: schema for file in files for identity, schema in _definitions(file, kinds)}


def faults(schemas: Schemas, found: dict[str, Any]) -> list[tuple[str, str]]:
    """The path of what the API server would refuse or drop, and why. Raises KeyError for a kind without a CRD."""
    import jsonschema  # type: ignore[import-untyped]

    validator = jsonschema.Draft202012Validator(schemas[found["apiVersion"], found["kind"]])
    return [(error.json_path.removeprefix("$."), error.message) for error in validator.iter_errors(found)]


def rule(schemas: Schemas) -> Rule:
    """The check of every object that has a CRD among `schemas`, as a rule."""

    def check(manifests: Manifests) -> Iterator[Fault]:
        for document in manifests.documents:
            if (document.object["apiVersion"], document.object["kind"]) in schemas:
                for path, message in faults(schemas, document.object):
                    yield Fault(document, path, message[:300])

    return error(
        "schema",
        "the CRD does not take it: refused, or dropped without a word where validation is not strict (needs --crds)",
        "see the spelling and the type in the CRD",
        check,
    )


def _definitions(file: Path, kinds: frozenset[str]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    text = file.read_text()
    if not any(re.search(rf"^ *kind: {kind}$", text, re.MULTILINE) for kind in kinds):
        return
    try:  # some hold 2 MB
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as fault:
        raise SettingsError(f"{file}: {fault}") from None
    for document in documents:
        listed = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        for each in listed or []:
            if isinstance(each, dict) and each.get("kind") == "CustomResourceDefinition":
                yield from _versions(each["spec"], kinds)


def _versions(spec: dict[str, Any], kinds: frozenset[str]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    if spec["names"]["kind"] not in kinds:
        return
    for version in spec["versions"]:
        if schema := version.get("schema", {}).get("openAPIV3Schema"):
            strict = _strict(schema)
            strict["properties"] = {**strict.get("properties", {}), **_ROOT_FIELDS}
            yield (f"{spec['group']}/{version['name']}", spec["names"]["kind"]), strict


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as plain JSON schema, unknown fields refused where Kubernetes would prune them."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {name: value for name, value in schema.items() if not name.startswith("x-kubernetes-")}
    strict.pop("nullable", None)
    strict.pop("format", None)
    if "properties" in schema:
        strict["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    return strict
