"""A JSON merge patch (RFC 7386) from what an object is to what it shall be; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What a merge patch has to hold so that `before` becomes `after`; empty where they are equal.

    A list is one value: one changed item sends it whole. None in `after` is refused, as a merge patch deletes by it.
    """
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        if value is None and before.get(name) is not None:
            raise ValueError(f"a merge patch cannot set {name!r} to null; leave the field out to remove it")
        if name in before and before[name] == value:
            continue
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            patch[name] = merge_patch(old, value)
        else:
            patch[name] = value
    return patch
