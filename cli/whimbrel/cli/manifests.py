"""The objects that a command is given: files, folders, the standard input, kustomizations, function files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli.console import progress_out
from whimbrel.core.errors import InputRefused
from whimbrel.core.kustomize import render as render_kustomization
from whimbrel.kube.function import FunctionRefused, embedded_store, is_function, read_function, render
from whimbrel.kube.marked_yaml import Document, documents

Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--file", help="manifests or function files: a file, a folder, or - for the standard input"),
]
Kustomizations = Annotated[list[Path] | None, typer.Option("-k", "--kustomize", help="folder of a kustomization")]

Object = dict[str, Any]
_SUFFIXES = (".yaml", ".yml", ".json")
_STANDARD_INPUT = Path("-")


def read_objects(files: Iterable[Path], folders: Iterable[Path]) -> list[Object]:
    """Every object, function files rendered, with what only the one-machine engine needs.

    Raises InputRefused with file and line for what is no object, SettingsError for a kustomization that is none.
    """
    found: list[Object] = []
    for file in files:
        for document in _documents(file):
            found += _objects(document)
    for folder in folders:
        found += render_kustomization(folder)
    if not found:
        raise InputRefused("expected objects, seen none; name a file with -f or a kustomization with -k")
    return found


def _documents(file: Path) -> list[Document]:
    if file == _STANDARD_INPUT:
        return documents(sys.stdin.read(), "standard input")
    if file.is_dir():
        files = sorted(each for each in file.iterdir() if each.suffix in _SUFFIXES)
        return [document for each in files for document in documents(_text(each), str(each))]
    return documents(_text(file), str(file))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"expected a text file at {file}; {error}") from None


def _rendered(document: Document) -> list[Object]:
    """Ends the command with one line for each fault, as an editor takes them."""
    try:
        function = read_function(document)
    except FunctionRefused as refused:
        for fault in refused.faults:
            progress_out.print(fault, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    return [embedded_store(function), *render(function)]


def _objects(document: Document) -> list[Object]:
    if is_function(document):
        return _rendered(document)
    found = document.value
    if isinstance(found, dict) and found.get("kind") == "List" and isinstance(found.get("items"), list):
        return list(found["items"])
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or not all((found.get("apiVersion"), found.get("kind"), metadata.get("name"))):
        raise InputRefused(
            f"{document.at(())}: expected an object with apiVersion, kind and metadata.name, "
            "or a function file, which begins with 'schema'"
        )
    return [found]
