"""What a URL of the API names: a kind, a namespace, an object, a part of it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from whimbrel.local.api.kinds import NAMESPACE, Kind, by_plural


@dataclass(frozen=True, slots=True)
class Target:
    """`name` None: the whole collection, in one namespace or in all."""

    kind: Kind
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None


def parse(path: str) -> Target | None:
    """None where nothing is served."""
    match path.strip("/").split("/"):
        case ["api", "v1", *rest]:
            return _within("", "v1", rest)
        case ["apis", group, version, *rest]:
            return _within(group, version, rest)
    return None


def _within(group: str, version: str, rest: list[str]) -> Target | None:
    namespace = None
    if len(rest) > 2 and rest[0] == NAMESPACE.plural and by_plural(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3 or not all(rest):
        return None
    kind = by_plural(group, version, rest[0])
    if kind is None or (namespace is not None and not kind.namespaced):
        return None
    if len(rest) > 1 and kind.namespaced and namespace is None:
        return None
    return Target(kind, namespace, *rest[1:])
