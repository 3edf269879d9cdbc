"""Strategic merge patch, which kubectl sends for the core kinds: lists of named things are merged by their key; pure.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

from typing import Any

from whimbrel.local.api.faults import BadRequest

_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "port"),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "secrets": ("name",),
}
_SETS = frozenset({"finalizers"})
_DIRECTIVE, _ORDER, _REMOVED, _RETAINED = "$patch", "$setElementOrder/", "$deleteFromPrimitiveList/", "$retainKeys"


def merged(found: Any, patch: Any) -> Any:
    """`found` after the patch. Raises BadRequest for a directive that is unknown."""
    if not isinstance(patch, dict):
        return patch
    if _directive(patch) == "replace":
        return _plain(patch)
    base = dict(found) if isinstance(found, dict) else {}
    if _RETAINED in patch:
        base = {name: value for name, value in base.items() if name in patch[_RETAINED]}
    for name, value in patch.items():
        if name.startswith("$"):
            _remove_from_set(base, name, value)
        elif value is None or _directive(value) == "delete":
            base.pop(name, None)
        elif isinstance(value, list):
            base[name] = _list(name, base.get(name), value, patch.get(_ORDER + name))
        else:
            base[name] = merged(base.get(name), value)
    return base


def _list(name: str, found: Any, patch: list[Any], order: Any) -> list[Any]:
    old = found if isinstance(found, list) else []
    if name in _SETS:
        return [*old, *(each for each in patch if each not in old)]
    key = _key(name, patch) or _key(name, old)
    if key is None or any(_directive(each) == "replace" for each in patch):
        return [_plain(each) for each in patch if _directive(each) != "replace" or len(each) > 1]
    by_key = {each.get(key): each for each in old if isinstance(each, dict)}
    for each in patch:
        if _directive(each) == "delete":
            by_key.pop(each.get(key), None)
        else:
            by_key[each.get(key)] = merged(by_key.get(each.get(key)), each)
    return _ordered(by_key, [each.get(key) for each in order] if isinstance(order, list) else [])


def _ordered(by_key: dict[Any, Any], order: list[Any]) -> list[Any]:
    """What the patch puts in order first, then the rest as it was."""
    first = [by_key[key] for key in order if key in by_key]
    return [*first, *(value for key, value in by_key.items() if key not in order)]


def _key(name: str, items: list[Any]) -> str | None:
    """The field that tells the items of such a list apart; ports have one of two."""
    for key in _KEYS.get(name, ()):
        if items and all(isinstance(each, dict) and (key in each or _DIRECTIVE in each) for each in items):
            return key
    return None


def _remove_from_set(base: dict[str, Any], directive: str, removed: Any) -> None:
    if directive.startswith(_REMOVED):
        name = directive.removeprefix(_REMOVED)
        base[name] = [each for each in base.get(name) or [] if each not in removed]


def _directive(value: Any) -> str:
    found = value.get(_DIRECTIVE, "") if isinstance(value, dict) else ""
    if found not in ("", "replace", "delete", "merge"):
        raise BadRequest(f"strategic merge patch: expected replace, delete or merge as $patch, seen {found!r:.40}")
    return str(found)


def _plain(value: Any) -> Any:
    """Without directives."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not name.startswith("$")}
    return [_plain(each) for each in value] if isinstance(value, list) else value
