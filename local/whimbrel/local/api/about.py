"""The documents that tell of the API itself, by their path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whimbrel.local.api import discovery, openapi, openapi_v2

_FIXED: dict[str, Callable[[], dict[str, Any]]] = {
    "version": lambda: discovery.VERSION,
    "api": discovery.core_versions,
    "apis": discovery.groups,
    "openapi/v2": openapi_v2.document,
    "openapi/v3": openapi.index,
}


def document(path: str) -> dict[str, Any] | None:
    """None where there is none."""
    plain = path.strip("/")
    if fixed := _FIXED.get(plain):
        return fixed()
    described = plain.startswith("openapi/v3/")
    match plain.removeprefix("openapi/v3/").split("/"):
        case ["api", version]:
            return openapi.document("", version) if described else discovery.resources("", version)
        case ["apis", group] if not described:
            return discovery.group(group)
        case ["apis", group, version]:
            return openapi.document(group, version) if described else discovery.resources(group, version)
    return None
