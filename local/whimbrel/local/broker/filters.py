"""Which events a Trigger wants: Knative's attribute filter and the CloudEvents Subscriptions API dialects; pure.

https://knative.dev/docs/eventing/triggers/#trigger-filtering. Comparison is case-sensitive; an attribute that the
event lacks matches nothing, not even the empty prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

ANY_VALUE = ""  # in `filter.attributes`: the attribute has to be there, whatever its value

_DIALECTS = ("exact", "prefix", "suffix", "all", "any", "not")


@dataclass(frozen=True, slots=True)
class Exact:
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Prefix:
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Suffix:
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class All:
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    filter: Filter


Filter: TypeAlias = Exact | Prefix | Suffix | All | AnyOf | Not

EVERYTHING = All(())


def matches(wanted: Filter, attributes: Mapping[str, str]) -> bool:
    """Whether an event with these attributes (`Event.attributes()`) passes."""
    match wanted:
        case Exact(attribute, value):
            return attributes.get(attribute) == value
        case Prefix(attribute, value):
            return attribute in attributes and attributes[attribute].startswith(value)
        case Suffix(attribute, value):
            return attribute in attributes and attributes[attribute].endswith(value)
        case All(filters):
            return all(matches(each, attributes) for each in filters)
        case AnyOf(filters):
            return any(matches(each, attributes) for each in filters)
        case Not(inner):
            return not matches(inner, attributes)


def attributes_filter(attributes: Mapping[str, str]) -> Filter:
    """`spec.filter.attributes`: every one exactly, `""` standing for any value (which the empty prefix is)."""
    return All(
        tuple(Prefix(name, "") if value == ANY_VALUE else Exact(name, value) for name, value in attributes.items())
    )


def parse_dialects(documents: Any, path: str) -> Filter:
    """`spec.filters`: all of them have to pass. Raises ValueError that names the path of what is wrong."""
    if not isinstance(documents, list):
        raise ValueError(f"{path}: expected a list of filters, seen {documents!r:.80}")
    return All(tuple(_parse(document, f"{path}[{index}]") for index, document in enumerate(documents)))


def _parse(document: Any, path: str) -> Filter:
    if isinstance(document, dict) and "cesql" in document:
        raise ValueError(f"{path}.cesql: CESQL is not run by this broker; write it with {', '.join(_DIALECTS)}")
    if not isinstance(document, dict) or len(document) != 1 or next(iter(document)) not in _DIALECTS:
        raise ValueError(f"{path}: expected one of {', '.join(_DIALECTS)}, seen {document!r:.80}")
    dialect, value = next(iter(document.items()))
    path = f"{path}.{dialect}"
    match dialect:
        case "exact":
            return _each(Exact, value, path)
        case "prefix":
            return _each(Prefix, value, path)
        case "suffix":
            return _each(Suffix, value, path)
        case "all":
            return _some(All, value, path)
        case "any":
            return _some(AnyOf, value, path)
        case _:
            return Not(_parse(value, path))


def _each(kind: type[Exact] | type[Prefix] | type[Suffix], value: Any, path: str) -> Filter:
    if not isinstance(value, dict) or not value or not all(isinstance(text, str) and text for text in value.values()):
        raise ValueError(f"{path}: expected attributes with a text each, seen {value!r:.80}")
    filters = tuple(kind(name, text) for name, text in value.items())
    return filters[0] if len(filters) == 1 else All(filters)


def _some(kind: type[All] | type[AnyOf], value: Any, path: str) -> Filter:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path}: expected a list of filters, seen {value!r:.80}")
    return kind(tuple(_parse(document, f"{path}[{index}]") for index, document in enumerate(value)))
