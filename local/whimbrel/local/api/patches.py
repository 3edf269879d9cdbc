"""What each kind of PATCH makes of an object; pure."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch

from whimbrel.local.api import strategic
from whimbrel.local.api.faults import BadRequest, Cause, UnsupportedMediaType, invalid
from whimbrel.local.api.kinds import Kind
from whimbrel.local.api.metadata import Object

JSON, MERGE = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"

_MAX_OPERATIONS = 10_000  # Kubernetes' own
_FULLY_KNOWN = ("", "apps", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "coordination.k8s.io")


def forms(kind: Kind) -> tuple[str, ...]:
    """The kinds of patch that this kind takes: strategic ones not for custom resources, as in Kubernetes."""
    return (JSON, MERGE, *((STRATEGIC,) if kind.group in _FULLY_KNOWN else ()), APPLY)


def applied(kind: Kind, form: str, found: Object, patch: Any) -> Object:
    """`found` after a JSON, merge or strategic merge patch. Raises ApiFault."""
    if form not in forms(kind):
        expected = ", ".join(forms(kind))
        raise UnsupportedMediaType(f"{kind.kind}: expected a patch as one of {expected}; seen {form!r:.80}")
    if form == JSON:
        return _operations(kind, found, patch)
    if not isinstance(patch, dict):
        raise BadRequest(f"expected the patch to be an object, seen {str(patch)!r:.80}")
    if form == MERGE:
        return _object(merged(found, patch))
    try:
        return _object(strategic.merged(found, patch))
    except (TypeError, AttributeError) as error:
        raise BadRequest(f"the strategic merge patch cannot be read: {error!s:.200}") from None


def merged(found: Any, patch: Any) -> Any:
    """A JSON merge patch, RFC 7386: null removes, lists are replaced."""
    if not isinstance(patch, dict):
        return patch
    base = dict(found) if isinstance(found, dict) else {}
    for name, value in patch.items():
        if value is None:
            base.pop(name, None)
        else:
            base[name] = merged(base.get(name), value)
    return base


def _operations(kind: Kind, found: Object, patch: Any) -> Object:
    if not isinstance(patch, list) or len(patch) > _MAX_OPERATIONS:
        raise BadRequest(f"expected the JSON patch to be a list of {_MAX_OPERATIONS} operations at most")
    try:
        return _object(jsonpatch.JsonPatch(patch).apply(copy.deepcopy(found)))
    except (jsonpatch.JsonPatchConflict, jsonpatch.JsonPatchTestFailed, jsonpatch.JsonPointerException) as error:
        raise invalid(kind, found["metadata"]["name"], [Cause("", f"the JSON patch: {error}"[:300])]) from None
    except (jsonpatch.JsonPatchException, TypeError, AttributeError, KeyError) as error:
        raise BadRequest(f"the JSON patch cannot be read: {error!s:.200}") from None


def _object(found: Any) -> Object:
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
        raise BadRequest("expected an object with metadata after the patch")
    return found
