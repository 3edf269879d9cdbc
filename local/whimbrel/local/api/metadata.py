"""What the server itself writes into an object's metadata, and which changes an update may make; pure."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

from whimbrel.local.api.faults import ApiFault, BadRequest, Cause, Forbidden, invalid
from whimbrel.local.api.kinds import Kind

Object = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RBAC_NAME = re.compile(r"[^/%]+")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own, which spell no words
_SERVER_ONLY = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def created(kind: Kind, given: Object) -> Object:
    """A new object as it is stored: named, stamped, without a status of its own. Raises ApiFault."""
    metadata = dict(_metadata(kind, given))
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName']}" + "".join(secrets.choice(_NAME_LETTERS) for _ in range(5))
    for field in (*_SERVER_ONLY, "resourceVersion", "selfLink"):
        metadata.pop(field, None)
    if kind.namespaced:
        metadata["namespace"] = metadata.get("namespace") or "default"
    else:
        metadata.pop("namespace", None)
    metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
    if "spec" in given:
        metadata["generation"] = 1
    _check(kind, metadata)
    stamped = {"apiVersion": kind.api_version, "kind": kind.kind, **given, "metadata": tidy(metadata)}
    if kind.has_status:
        stamped.pop("status", None)
    return stamped


def updated(kind: Kind, stored: Object, given: Object, subresource: str | None) -> Object:
    """What an update of `stored` by `given` leaves: the status, or all but the status. Raises ApiFault."""
    if subresource == "status":
        if not kind.has_status:
            raise ApiFault(f"{kind.resource} has no status subresource")
        if not isinstance(given.get("status", {}), dict):
            raise invalid(kind, stored["metadata"]["name"], [Cause("status", "expected an object")])
        return {**without(stored, "status"), **({"status": given["status"]} if "status" in given else {})}
    new = {**given, "apiVersion": kind.api_version, "kind": kind.kind}
    new["metadata"] = _carried(kind, stored, _metadata(kind, given))
    if kind.has_status:
        new = {**without(new, "status"), **({"status": stored["status"]} if "status" in stored else {})}
    if _content(new) != _content(stored) and "spec" in new:
        new["metadata"]["generation"] = stored["metadata"].get("generation", 0) + 1
    return new


def same(stored: Object, new: Object) -> bool:
    """Whether an update changes nothing: nobody is told, and the version stays."""
    return _unversioned(stored) == _unversioned(new)


def without(found: Object, *fields: str) -> Object:
    return {name: value for name, value in found.items() if name not in fields}


def owners(found: Object) -> list[str]:
    """The uids of those that this object goes with."""
    return [reference["uid"] for reference in found["metadata"].get("ownerReferences", []) if reference.get("uid")]


def is_terminating(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _carried(kind: Kind, stored: Object, given: Object) -> Object:
    """The given metadata with the fields that only the server writes as they were."""
    before = stored["metadata"]
    if given.get("uid") not in (None, "", before["uid"]):
        cause = Cause("metadata.uid", f"field is immutable, expected {before['uid']}, seen {given['uid']}")
        raise invalid(kind, before["name"], [cause])
    metadata = without(given, *_SERVER_ONLY, "selfLink")
    for field in (*_SERVER_ONLY, "name", "namespace", "resourceVersion"):
        if field in before:
            metadata[field] = before[field]
    _check(kind, metadata)
    added = set(metadata.get("finalizers", [])) - set(before.get("finalizers", []))
    if is_terminating(stored) and added:
        raise Forbidden(f'{kind.resource} "{before["name"]}" is being deleted: no finalizer can be added')
    return tidy(metadata)


def tidy(metadata: Object) -> Object:
    """Without maps and lists that are empty, as Kubernetes writes it."""
    return {name: value for name, value in metadata.items() if value not in ({}, [], None)}


def _metadata(kind: Kind, given: Object) -> Object:
    metadata = given.get("metadata")
    if not isinstance(metadata, dict):
        raise BadRequest(f"expected an object of kind {kind.kind} with metadata, seen {str(metadata)!r:.80}")
    return metadata


def _check(kind: Kind, metadata: Object) -> None:
    causes = [*_wrong_name(kind, metadata), *_wrong_words(metadata), *_wrong_lists(metadata)]
    if causes:
        raise invalid(kind, str(metadata.get("name") or ""), causes)


def _wrong_name(kind: Kind, metadata: Object) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
    pattern = _RBAC_NAME if kind.group.startswith("rbac.") else _NAME
    if not isinstance(name, str) or not pattern.fullmatch(name) or len(name) > 253:
        expected = "expected lower case letters, digits, '-' and '.', a letter or digit at each end, 253 at most"
        return [Cause("metadata.name", f"Invalid value: {name!r:.80}: {expected}")]
    return []


def _wrong_words(metadata: Object) -> list[Cause]:
    causes = []
    for field in ("labels", "annotations"):
        words = metadata.get(field)
        if words is None:
            metadata.pop(field, None)
        elif not isinstance(words, dict):
            causes.append(Cause(f"metadata.{field}", f"expected a map of strings, seen {words!r:.80}"))
        else:
            causes += [
                Cause(f"metadata.{field}.{name}", f"Invalid value: {value!r:.80}: expected {expected}")
                for name, value in words.items()
                if (expected := _expected(field, name, value))
            ]
    return causes


def _wrong_lists(metadata: Object) -> list[Cause]:
    causes = []
    for field, expected in (("finalizers", "strings"), ("ownerReferences", "objects with a uid")):
        listed = metadata.get(field)
        if listed is None:
            metadata.pop(field, None)
        elif not isinstance(listed, list) or not all(_is_listed(field, each) for each in listed):
            causes.append(Cause(f"metadata.{field}", f"expected a list of {expected}, seen {listed!r:.80}"))
    return causes


def _is_listed(field: str, item: Any) -> bool:
    found = item.get("uid") if field == "ownerReferences" and isinstance(item, dict) else item
    return isinstance(found, str)


def _expected(field: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        return "a string; put quotes around it"
    if not _LABEL_KEY.fullmatch(name):
        return "a key of the form [prefix/]name"
    if field == "labels" and not _LABEL_VALUE.fullmatch(value):
        return "63 letters, digits, '-', '_' and '.' at most, a letter or digit at each end"
    return ""


def _content(found: Object) -> Object:
    return without(found, "metadata", "status", "apiVersion", "kind")


def _unversioned(found: Object) -> Object:
    return {**found, "metadata": without(found["metadata"], "resourceVersion")}
