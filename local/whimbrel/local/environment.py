"""The environment of a process: what its container declares, and of this machine's what every program needs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from whimbrel.core.errors import InputRefused
from whimbrel.local.objects import (
    Applied,
    AppliedObjects,
    ConfigMap,
    Container,
    EnvironmentEntry,
    EnvironmentFrom,
    NameReference,
    Secret,
)

_FROM_THIS_MACHINE = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
# What the images set: nothing of the folder that a process starts in may shadow a real package.
_FROM_THE_IMAGE = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def machine_environment() -> dict[str, str]:
    """What every process gets beside its declared environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _FROM_THIS_MACHINE or name.startswith(("LC_", "OTEL_"))
    }
    return kept | _FROM_THE_IMAGE


def container_environment(owner: Applied, container: Container, objects: AppliedObjects) -> dict[str, str]:
    """`envFrom`, then `env`, which wins. Raises InputRefused for a ConfigMap, Secret or key that is not there."""
    found: dict[str, str] = {}
    for source in container.env_from:
        found |= _from(owner, source, objects)
    for entry in container.env:
        value = _value(owner, entry, objects)
        if value is not None:
            found[entry.name] = value
    return found


def _from(owner: Applied, source: EnvironmentFrom, objects: AppliedObjects) -> dict[str, str]:
    values: dict[str, str] = {}
    if source.config_map_ref is not None:
        values |= _values(owner, ConfigMap, source.config_map_ref, objects)
    if source.secret_ref is not None:
        values |= _values(owner, Secret, source.secret_ref, objects)
    return {source.prefix + name: value for name, value in values.items()}


def _value(owner: Applied, entry: EnvironmentEntry, objects: AppliedObjects) -> str | None:
    if entry.value_from is None:
        return entry.value
    kinds: tuple[type[ConfigMap | Secret], ...] = (ConfigMap, Secret)
    references = (entry.value_from.config_map_key_ref, entry.value_from.secret_key_ref)
    for kind, reference in zip(kinds, references, strict=True):
        if reference is None:
            continue
        values = _values(owner, kind, reference, objects)
        if reference.key not in values and not reference.optional:
            raise InputRefused(f"{_named(owner)}: env {entry.name}: {reference.name!r} has no key {reference.key!r}")
        return values.get(reference.key)
    raise InputRefused(f"{_named(owner)}: env {entry.name}: expected configMapKeyRef or secretKeyRef")


def _values(
    owner: Applied, kind: type[ConfigMap | Secret], reference: NameReference, objects: AppliedObjects
) -> Mapping[str, str]:
    found = objects.named(kind, owner.namespace, reference.name)
    if found is None:
        if reference.optional:
            return {}
        raise InputRefused(f"{_named(owner)}: no {kind.__name__} {reference.name!r} in namespace {owner.namespace!r}")
    return found.values


def _named(owner: Applied) -> str:
    return f"{owner.kind} {owner.name!r}"
