"""Label and field selectors, as `kubectl get -l` and `--field-selector` write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from whimbrel.local.api.faults import BadRequest

_SET = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUAL = re.compile(r"(?P<key>[^\s=!]+)\s*(?P<operator>==|=|!=)\s*(?P<value>\S*)")
_KEY = re.compile(r"(?P<no>!?)\s*(?P<key>[^\s=!(),]+)")
_COMMA = re.compile(r",(?![^(]*\))")  # outside of parentheses


@dataclass(frozen=True, slots=True)
class Requirement:
    """One value among (or, negated, not among) `values`; without values: there at all (or not)."""

    key: str
    values: frozenset[str] = frozenset()
    negated: bool = False

    def holds(self, found: str | None) -> bool:
        if not self.values:
            return (found is None) == self.negated
        return (found in self.values) != self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """What an object has to fulfil, all of it."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, found: dict[str, Any]) -> bool:
        labels = found["metadata"].get("labels") or {}
        return all(each.holds(labels.get(each.key)) for each in self.labels) and all(
            each.holds(_field(found, each.key)) for each in self.fields
        )


def parse(labels: str = "", fields: str = "") -> Selector:
    """Raises BadRequest that names the part that cannot be read."""
    return Selector(tuple(_label(part) for part in _parts(labels)), tuple(_by_field(part) for part in _parts(fields)))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in _COMMA.split(text) if part.strip()]


def _label(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], values, found["operator"] == "notin")
    if found := _EQUAL.fullmatch(part):
        return Requirement(found["key"], frozenset({found["value"]}), found["operator"] == "!=")
    if found := _KEY.fullmatch(part):
        return Requirement(found["key"], negated=bool(found["no"]))
    raise BadRequest(f"label selector: expected key, !key, key=value, key!=value or key in (a, b), seen {part!r:.80}")


def _by_field(part: str) -> Requirement:
    if found := _EQUAL.fullmatch(part):
        return Requirement(found["key"], frozenset({found["value"]}), found["operator"] == "!=")
    raise BadRequest(f"field selector: expected field=value or field!=value, seen {part!r:.80}")


def _field(found: Any, path: str) -> str:
    """A scalar by its path; a missing one is empty, as in Kubernetes."""
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)
