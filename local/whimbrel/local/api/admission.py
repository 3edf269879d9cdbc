"""What a user may write: fields are honoured, accepted with a warning, or refused by path."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from whimbrel.core.errors import InputRefused
from whimbrel.local import fields
from whimbrel.local.api.faults import BadRequest, Cause, invalid
from whimbrel.local.api.kinds import SECRET, Kind
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.options import FieldValidation

Judge = Callable[[Object], fields.Verdict]
"""The verdict on an object's fields; raises InputRefused for an object that can never work, whatever its fields."""

_METADATA = frozenset(
    (
        *("name", "namespace", "generateName", "labels", "annotations", "finalizers", "ownerReferences", "uid"),
        *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
        *("managedFields", "selfLink"),
    )
)
_JUDGED_METADATA = ("name", "namespace", "labels", "annotations")


def by_table(found: Object) -> fields.Verdict:
    """By the engine's table of fields; a kind that the table does not have is taken as it is."""
    if fields.API_VERSIONS.get(found["kind"]) != found["apiVersion"]:
        return fields.Verdict((), ())
    return fields.judge(found)


def admitted(kind: Kind, given: Object, validation: FieldValidation, judge: Judge) -> tuple[Object, list[str]]:
    """The object to store, and what to warn of. Raises BadRequest that names each refused field by its path."""
    found = plain(kind, given)
    name = str(found["metadata"].get("name") or found["metadata"].get("generateName") or "")
    try:
        verdict = judge(_judged(kind, found))
    except InputRefused as error:
        raise BadRequest(f"{kind.kind} {name!r}: {error}") from None
    refused = [*(f"metadata.{each}" for each in found["metadata"] if each not in _METADATA), *verdict.refused]
    if refused and validation == "Strict":
        raise BadRequest(
            f"{kind.kind} {name!r}: not supported on one machine: {', '.join(refused)}; remove what is misspelt or not "
            "needed",
            causes=[Cause(path, "unknown field, or not supported on one machine") for path in refused],
        )
    warnings = [f'unknown field "{path}"' for path in refused] if validation == "Warn" else []
    if verdict.not_enforced:
        warnings.append(f"accepted, but not enforced on one machine: {', '.join(verdict.not_enforced)}")
    return _without(found, frozenset(refused), ""), warnings


def plain(kind: Kind, given: Object) -> Object:
    """As it is stored, where a kind can be written in more than one way."""
    return _secret(given) if kind is SECRET else given


def _judged(kind: Kind, found: Object) -> Object:
    """Without what the server itself writes."""
    metadata = {name: value for name, value in found["metadata"].items() if name in _JUDGED_METADATA}
    rest = {name: value for name, value in found.items() if name != "status"}
    return {**rest, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def _without(value: Any, refused: frozenset[str], path: str) -> Any:
    """A copy that lacks the fields at these paths, written as the table writes them: `a.b[0].c`."""
    if not refused:
        return value
    if isinstance(value, dict):
        below = {name: f"{path}.{name}" if path else name for name in value}
        return {
            name: _without(each, refused, below[name]) for name, each in value.items() if below[name] not in refused
        }
    if isinstance(value, list):
        return [_without(each, refused, f"{path}[{index}]") for index, each in enumerate(value)]
    return value


def _secret(given: Object) -> Object:
    """`stringData` is another way to write `data`, and never read back."""
    found = {name: value for name, value in given.items() if name != "stringData"}
    maps = {field: given.get(field) or {} for field in ("data", "stringData")}
    name = str(given["metadata"].get("name", ""))
    for field, words in maps.items():
        if not isinstance(words, dict) or not all(isinstance(value, str) for value in words.values()):
            raise invalid(SECRET, name, [Cause(field, "expected a map of strings")])
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in maps["stringData"].items()}
    data = {**maps["data"], **encoded}
    wrong = [key for key, value in data.items() if not _is_base64(value)]
    if wrong:
        raise invalid(
            SECRET, name, [Cause(f"data.{key}", "expected base64; stringData takes plain text") for key in wrong]
        )
    return {**found, **({"data": data} if data else {}), "type": found.get("type") or "Opaque"}


def _is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except ValueError:
        return False
