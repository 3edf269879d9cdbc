"""Server-side apply: who set which field, kept in `metadata.managedFields`, and conflicts between them; pure.

A field is a path of names down to a value that is no map. Lists are owned as a whole, as they are in KServe's own
kinds; Kubernetes owns those of its core kinds item by item.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from whimbrel.local.api.faults import Cause, Conflict
from whimbrel.local.api.metadata import Object, now

Path = tuple[str, ...]

_SERVERS = frozenset(
    ("metadata", name)
    for name in (
        *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"),
        *("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generateName"),
    )
)
_MISSING = object()
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Owner:
    """One entry of managedFields: a manager, and how it writes."""

    manager: str
    operation: str
    subresource: str = ""
    api_version: str = ""
    time: str = ""
    fields: frozenset[Path] = frozenset()

    def is_same(self, other: Owner) -> bool:
        return (self.manager, self.operation, self.subresource) == (other.manager, other.operation, other.subresource)


def applied(stored: Object | None, config: Object, manager: str, *, subresource: str = "", force: bool) -> Object:
    """`stored` with what `manager` wants, and without what it wanted before and nobody else does. Raises Conflict."""
    applier = _applier(config, manager, subresource)
    if stored is None:
        return _with_owners(config, [applier])
    owners = _owners(stored)
    before = next((each.fields for each in owners if each.is_same(applier)), frozenset())
    others = [each for each in owners if not each.is_same(applier)]
    conflicting = _conflicts(stored, config, applier, others)
    if not force and not _is_client_side(stored, manager, conflicting):
        raise _conflict(conflicting)
    taken = frozenset(path for _, path in conflicting)
    others = [replace(each, fields=each.fields - taken) for each in others]
    kept = applier.fields.union(*(each.fields for each in others))
    result = copy.deepcopy(stored)
    above = {path[:length] for path in kept for length in range(1, len(path))}
    for path in sorted(before - kept - above, key=len, reverse=True):
        _remove(result, path)
    return _with_owners(_merged(result, config), [*others, applier], stored)


def tracked(stored: Object | None, new: Object, manager: str, *, subresource: str = "") -> Object:
    """`new` with its changed fields owned by `manager`, which wrote it without applying."""
    writer = Owner(manager, "Update", subresource, new.get("apiVersion", ""), now())
    if stored is None:
        return _with_owners(new, [replace(writer, fields=_fields(new))])
    given = "managedFields" in new["metadata"] and new["metadata"]["managedFields"] != _entries(stored)
    owners = _owners(new if given else stored)
    fields = _fields(new)
    changed = {path for path in fields if _value(stored, path) != _value(new, path)}
    if subresource != "status":
        changed = {path for path in changed if path[0] != "status"}
    owners = [replace(each, fields=(each.fields & fields) - changed) for each in owners]
    if changed:
        before = next((each.fields for each in owners if each.is_same(writer)), frozenset())
        owners = [*(each for each in owners if not each.is_same(writer)), replace(writer, fields=before | changed)]
    return _with_owners(new, owners, stored)


def _applier(config: Object, manager: str, subresource: str) -> Owner:
    fields = _fields(config)
    return Owner(manager, "Apply", subresource, config.get("apiVersion", ""), now(), fields)


def _conflicts(stored: Object, config: Object, applier: Owner, others: list[Owner]) -> list[tuple[Owner, Path]]:
    """The fields that another one owns and that `config` would change."""
    differing = {path for path in applier.fields if not _is_met(_value(stored, path), _value(config, path))}
    return [(each, path) for each in others for path in sorted(each.fields) if _is_changed(path, differing, stored)]


def _is_met(found: Any, wanted: Any) -> bool:
    """An empty map asks for any map."""
    return bool(found == wanted) or (wanted == {} and isinstance(found, dict))


def _is_changed(path: Path, differing: set[Path], stored: Object) -> bool:
    """By the field itself, by a value in place of a map above it, or by a map in place of its value."""
    if any(path[:length] in differing for length in range(1, len(path) + 1)):
        return True
    return not isinstance(_value(stored, path), dict) and any(each[: len(path)] == path for each in differing)


def _is_client_side(stored: Object, manager: str, conflicting: list[tuple[Owner, Path]]) -> bool:
    """Whether all of it is as kubectl's own client-side apply left it: then kubectl may go on from there."""
    try:
        last = json.loads((stored["metadata"].get("annotations") or {}).get(_LAST_APPLIED, "null"))
    except ValueError:
        last = None
    return all(manager == "kubectl" and _value(last, path) == _value(stored, path) for _, path in conflicting)


def _conflict(conflicting: list[tuple[Owner, Path]]) -> Conflict:
    causes = [
        Cause(_dotted(path), f'conflict with "{owner.manager}" using {owner.api_version}', "FieldManagerConflict")
        for owner, path in conflicting
    ]
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    told = "; ".join(f"{cause.message}: {cause.field}" for cause in causes)
    return Conflict(f"Apply failed with {count}: {told}", causes=causes)


def _dotted(path: Path) -> str:
    return "".join(f".{name}" for name in path)


def _fields(found: Object) -> frozenset[Path]:
    return frozenset(path for path in _leaves(found, ()) if path[:2] not in _SERVERS and path[0] in found)


def _leaves(found: Any, path: Path) -> Iterable[Path]:
    if isinstance(found, dict) and (found or not path):
        for name, value in found.items():
            if path or name not in ("apiVersion", "kind"):
                yield from _leaves(value, (*path, name))
    else:
        yield path


def _value(found: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return _MISSING
        found = found[name]
    return found


def _remove(found: Object, path: Path) -> None:
    """The field, and the maps above it that this leaves empty."""
    above = [found]
    for name in path[:-1]:
        below = above[-1].get(name)
        if not isinstance(below, dict):
            return
        above.append(below)
    for name, holder in zip(reversed(path), reversed(above), strict=True):
        holder.pop(name, None)
        if holder:
            return


def _merged(found: Any, config: Any) -> Any:
    if not isinstance(found, dict) or not isinstance(config, dict):
        return config
    return {**found, **{name: _merged(found.get(name), value) for name, value in config.items()}}


def _entries(found: Object) -> list[Any]:
    entries = found["metadata"].get("managedFields")
    return entries if isinstance(entries, list) else []


def _owners(found: Object) -> list[Owner]:
    return [
        Owner(
            str(each.get("manager", "")),
            str(each.get("operation", "Update")),
            str(each.get("subresource", "")),
            str(each.get("apiVersion", "")),
            str(each.get("time", "")),
            frozenset(_read(each.get("fieldsV1") or {}, ())),
        )
        for each in _entries(found)
        if isinstance(each, dict)
    ]


def _read(fields: Any, path: Path) -> Iterable[Path]:
    """FieldsV1: `f:name` a field, the rest (items of lists) is not written here and read as the list itself."""
    below = [name for name in fields if name.startswith("f:")] if isinstance(fields, dict) else []
    if not below and path:
        yield path
    for name in below:
        yield from _read(fields[name], (*path, name.removeprefix("f:")))


def _written(fields: frozenset[Path]) -> Object:
    root: Object = {}
    for path in sorted(fields):
        place = root
        for name in path:
            place = place.setdefault(f"f:{name}", {})
    return root


def _with_owners(found: Object, owners: list[Owner], stored: Object | None = None) -> Object:
    """The object with managedFields; the time of an entry is that of its last change."""
    before = _owners(stored) if stored else []
    entries = []
    for owner in owners:
        same = next((each for each in before if each.is_same(owner) and each.fields == owner.fields), None)
        kept = same if same is not None and _is_unchanged(stored, found, owner) else owner
        if kept.fields or kept.operation == "Apply":
            entries.append(_entry(kept))
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": {**metadata, **({"managedFields": entries} if entries else {})}}


def _is_unchanged(stored: Object | None, found: Object, owner: Owner) -> bool:
    return all(_value(stored, path) == _value(found, path) for path in owner.fields)


def _entry(owner: Owner) -> Object:
    entry: Object = {
        "manager": owner.manager,
        "operation": owner.operation,
        "apiVersion": owner.api_version,
        "time": owner.time or now(),
        "fieldsType": "FieldsV1",
        "fieldsV1": _written(owner.fields),
    }
    return {**entry, **({"subresource": owner.subresource} if owner.subresource else {})}
