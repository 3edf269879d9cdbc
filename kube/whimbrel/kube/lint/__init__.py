"""Rules for what the schemas take and what fails, or is silently changed, on a cluster; pure, over rendered objects.

They come from what KServe 0.20 and Knative 1.22 and 1.23 were seen to do, and from their webhooks' source.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from whimbrel.core.kustomize import Rendered
from whimbrel.kube.lint import (
    canary_rules,
    eventing_rules,
    graph_rules,
    knative_rules,
    model_rules,
    protocol_rules,
    reference_rules,
    scaling_rules,
    security_rules,
    service_rules,
    text_rules,
)
from whimbrel.kube.lint.rule import Fault, Finding, Manifests, Rule, Severity

__all__ = ["RULES", "Finding", "Rule", "Severity", "lint"]

_MODULES = (
    service_rules,
    canary_rules,
    scaling_rules,
    knative_rules,
    security_rules,
    protocol_rules,
    graph_rules,
    eventing_rules,
    model_rules,
    reference_rules,
    text_rules,
)
RULES: tuple[Rule, ...] = tuple(rule for module in _MODULES for rule in module.RULES)


def lint(
    documents: Iterable[Rendered], *, features: Iterable[str] = (), rules: Iterable[Rule] = RULES
) -> list[Finding]:
    """Every fault of what is applied together, errors first, each rule in the order of the documents.

    `features` are the flags of Knative's config-features that the cluster has enabled.
    """
    manifests = Manifests(tuple(documents), frozenset(features))
    found = [_finding(rule, fault) for rule in rules for fault in rule.check(manifests)]
    return sorted(found, key=lambda each: each.severity is Severity.WARNING)


def _finding(rule: Rule, fault: Fault) -> Finding:
    found = fault.document.object
    return Finding(
        file=_shown(fault.document.file),
        kind=str(found["kind"]),
        namespace=str(found["metadata"].get("namespace", "")),
        name=str(found["metadata"]["name"]),
        path=fault.path,
        rule=rule.id,
        severity=rule.severity,
        seen=fault.seen,
        about=rule.about,
        remedy=rule.remedy,
    )


def _shown(file: Path) -> str:
    """Without the detours of `resources: [../../base]`, and relative where it lies below the current folder."""
    path = Path(os.path.normpath(Path.cwd() / file))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
