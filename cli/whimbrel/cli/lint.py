"""`whimbrel lint`: what a cluster would take and fail later, found in the manifests, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import manifests
from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.manifests import Files
from whimbrel.cli.options import OutputFormat
from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.core.kustomize import Rendered, read_objects
from whimbrel.kube.function import is_function
from whimbrel.kube.lint import RULES, Finding, Rule, Severity, schemas
from whimbrel.kube.lint import lint as find
from whimbrel.kube.lint.documents import read
from whimbrel.kube.marked_yaml import documents as parse


def lint(
    *,
    kustomization: Annotated[
        list[Path] | None, typer.Option("-k", "--kustomize", help="folder with a kustomization.yaml, repeatable")
    ] = None,
    file: Files = None,
    crds: Annotated[
        list[Path] | None, typer.Option(help="file or folder of CRDs to validate against strictly, repeatable")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="flag that Knative's config-features has enabled, repeatable")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="end with 1 for warnings too")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="list the rules and end")] = False,
    json: Annotated[bool, typer.Option("--json", help="the same as -o json")] = False,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Find what KServe and Knative take and refuse later, or do otherwise than it reads. Needs no cluster.

    What is given is looked at together, as it is applied together. Ends with 1 when there is an error, with 2 when
    something cannot be read or rendered. CEL rules of CRDs are not evaluated.
    """
    as_json = json or output is Output.JSON
    if rules:
        _show_rules([*RULES, schemas.rule({})], as_json)
        return
    if not kustomization and not file:
        raise SettingsError(
            "expected -k FOLDER or -f FILE, seen neither; try 'whimbrel lint -k manifests/overlays/local'"
        )
    documents = [*read(kustomization or []), *(each for path in file or [] for each in _file(path))]
    found = find(documents, features=feature or [], rules=[*_schema_rules(crds or [], documents), *RULES])
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        _show(found, len(documents))
    if any(strict or each.severity is Severity.ERROR for each in found):
        raise typer.Exit(1)


def _file(path: Path) -> list[Rendered]:
    """A function file as the objects that it means; all others as they are written."""
    if path.is_dir():
        return [each for file in sorted(path.glob("*.y*ml")) for each in _file(file)]
    if path != Path("-") and not _is_function_file(path):
        return read_objects(path)
    try:
        return [Rendered(path, found) for found in manifests.read_objects([path], [])]
    except InputRefused as refused:
        raise SettingsError(str(refused)) from None


def _is_function_file(path: Path) -> bool:
    try:
        return any(map(is_function, parse(path.read_text(), str(path))))
    except (OSError, UnicodeDecodeError, InputRefused):
        return False  # what is wrong with it is said where it is read


def _schema_rules(crds: list[Path], documents: Iterable[Rendered]) -> list[Rule]:
    missing = [str(place) for place in crds if not place.exists()]
    if missing:
        raise SettingsError(f"expected CRDs at {missing[0]}, seen nothing; name a file or a folder with --crds")
    kinds = frozenset(document.object["kind"] for document in documents)
    return [schemas.rule(schemas.load(crds, kinds))] if crds else []


def _show(found: list[Finding], objects: int) -> None:
    for _, group in groupby(found, key=lambda each: (each.file, each.kind, each.name, each.rule)):
        findings = list(group)
        first = findings[0]
        say(f"{first.file}: {first.kind} {first.name}")
        for each in findings:
            say(f"  {each.path}: {each.seen}")
        say(f"    {first.severity} {first.rule}: {first.about}")
        say(f"    remedy: {first.remedy}")
    errors = sum(each.severity is Severity.ERROR for each in found)
    say(f"{objects} objects: {errors} errors, {len(found) - errors} warnings")


def _show_rules(rules: list[Rule], as_json: bool) -> None:
    if as_json:
        print_json([{"rule": r.id, "severity": r.severity, "about": r.about, "remedy": r.remedy} for r in rules])
        return
    out.print(
        add_rows(
            table("RULE", "SEVERITY", "WHAT HAPPENS", "REMEDY"), ((r.id, r.severity, r.about, r.remedy) for r in rules)
        )
    )
