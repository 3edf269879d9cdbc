"""`whimbrel init` and `whimbrel render`: a function file is written, and shown as the objects that it means."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from whimbrel.cli.console import out, print_json, say
from whimbrel.cli.manifests import Files, Kustomizations, read_objects
from whimbrel.core.errors import InputRefused
from whimbrel.kube.function import is_embedded_store
from whimbrel.kube.function.template import SCHEMA_FILE, json_schema, template


class Form(StrEnum):
    YAML = "yaml"
    JSON = "json"


def init(
    name: Annotated[str, typer.Argument(help="name of the function, and of its InferenceService")] = "digits",
    file: Annotated[Path, typer.Option("-f", "--file", help="where to write")] = Path("whimbrel.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """Write a commented function file, and beside it the JSON schema by which an editor completes and checks it."""
    text = template(name)
    if file.exists() and not force:
        raise InputRefused(f"expected no file at {file}, seen one; name another with -f, or replace it with --force")
    schema = file.with_name(SCHEMA_FILE)
    try:
        file.write_text(text)
        schema.write_text(json_schema())
    except OSError as error:
        raise InputRefused(f"expected to write {file}; {error}") from None
    say(f"{file} and {schema}; next: 'whimbrel render -f {file}'")


def render(
    file: Files = None,
    kustomize: Kustomizations = None,
    one_machine: Annotated[
        bool, typer.Option("--one-machine", help="with what the engine of 'whimbrel up' makes in its own store")
    ] = False,
    output: Annotated[Form, typer.Option("-o", "--output", help="how to print")] = Form.YAML,
) -> None:
    """Print the Kubernetes objects that function files and kustomizations mean; needs no cluster."""
    found = read_objects(file or [], kustomize or [])
    objects = [each for each in found if one_machine or not is_embedded_store(each)]
    if output is Form.JSON:
        print_json({"apiVersion": "v1", "kind": "List", "items": objects})
        return
    out.out(yaml.safe_dump_all(objects, sort_keys=False, width=120), end="", highlight=False)
