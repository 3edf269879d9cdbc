"""What a rule is, what it looks at, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from whimbrel.core.kustomize import Rendered

Object = Mapping[str, Any]


class Severity(StrEnum):
    """ERROR: refused by a webhook, or it will not work. WARNING: it works otherwise than it reads."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Fault:
    """One place that breaks a rule: the object, the path in it, and what is there."""

    document: Rendered
    path: str
    seen: str


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything that is applied together, and the feature flags of Knative that the cluster has enabled."""

    documents: tuple[Rendered, ...]
    features: frozenset[str] = frozenset()

    def of(self, group: str, *kinds: str) -> Iterator[Rendered]:
        """Every object of these kinds of one API group ("" is the core one), whatever its version."""
        for document in self.documents:
            if group_of(document.object) == group and document.object["kind"] in kinds:
                yield document


Check = Callable[[Manifests], Iterable[Fault]]


@dataclass(frozen=True, slots=True)
class Rule:
    """`about` says what happens on a cluster, `remedy` what to write instead."""

    id: str
    severity: Severity
    about: str
    remedy: str
    check: Check


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault with its rule, as it is printed."""

    file: str
    kind: str
    namespace: str
    name: str
    path: str
    rule: str
    severity: Severity
    seen: str
    about: str
    remedy: str


def error(rule_id: str, about: str, remedy: str, check: Check) -> Rule:
    return Rule(rule_id, Severity.ERROR, about, remedy, check)


def warning(rule_id: str, about: str, remedy: str, check: Check) -> Rule:
    return Rule(rule_id, Severity.WARNING, about, remedy, check)


def group_of(found: Object) -> str:
    return str(found["apiVersion"]).rpartition("/")[0]


def namespace_of(found: Object) -> str:
    return str(found["metadata"].get("namespace") or "default")


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping: a manifest may hold anything, and the schema, not a rule, says so."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def annotations_of(found: Object) -> Mapping[str, Any]:
    return mapping(mapping(found.get("metadata")).get("annotations"))


def number(value: Any) -> float | None:
    """A number, or a text that is one; None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
