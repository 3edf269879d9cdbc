"""Strict JSON schemas from Kubernetes CustomResourceDefinitions: a field that the CRD does not know is a fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml

Schemas = dict[tuple[str, str], dict[str, Any]]

_ROOT_FIELDS = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}


def load(folder: Path, kinds: frozenset[str]) -> Schemas:
    """The schemas of `kinds` under `folder`, by apiVersion and kind."""
    return {
        identity: schema
        for file in sorted(folder.rglob("*.yaml"))
        for identity, schema in _definitions(file.read_text(), kinds)
    }


def faults(schemas: Schemas, found: dict[str, Any]) -> list[str]:
    """What the API server would refuse or drop, each with its path. Raises KeyError for a kind without a CRD."""
    validator = jsonschema.Draft202012Validator(schemas[found["apiVersion"], found["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]


def _definitions(text: str, kinds: frozenset[str]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    if not any(re.search(rf"^ *kind: {kind}$", text, re.MULTILINE) for kind in kinds):
        return
    for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # some hold 2 MB
        if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            schema = version.get("schema", {}).get("openAPIV3Schema")
            if schema:
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
