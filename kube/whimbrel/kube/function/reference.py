"""The table of a function file's fields, from the model itself; pure."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from whimbrel.kube.function.model import Function


@dataclass(frozen=True, slots=True)
class FieldLine:
    """`path` as the file nests it: `input.source.queue`. `when` is the kind of source that has it."""

    path: str
    default: str
    description: str
    when: str = ""


def fields(section: type[BaseModel] = Function, prefix: str = "", when: str = "") -> Iterator[FieldLine]:
    """Every field, a section before what is in it."""
    for name, field in section.model_fields.items():
        path = prefix + (field.alias or name)
        told = when if field.description else ""  # what tells the kinds apart names its own
        yield FieldLine(path, _default(field), field.description or _kind(section, field), told)
        inner = list(_sections(field.annotation))
        for each in inner:
            kind = each.model_fields.get("kind")
            own = f"{typing.get_args(kind.annotation)[0]}" if kind is not None and len(inner) > 1 else when
            key = f"{path}.NAME." if typing.get_origin(field.annotation) is dict else f"{path}."
            yield from fields(each, key, own)


def table() -> str:
    """As Markdown."""
    lines = ["| Field | Default | What it is |", "|---|---|---|"]
    for each in fields():
        only = f" (with `{each.when}`)" if each.when else ""
        lines.append(f"| `{each.path}` | {each.default} | {each.description}{only} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return ""
    shown = {None: "", (): "none", "": "none"}.get(field.default) if _is_plain(field.default) else "none"
    return f"`{_spelt(field.default)}`" if shown is None else shown


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict)


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(section: type[BaseModel], field: FieldInfo) -> str:
    """Of the field that tells one kind of source from the others: what that kind is."""
    names = ", ".join(f"`{value}`" for value in typing.get_args(field.annotation))
    return f"{names}: {(section.__doc__ or '').strip()}"


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field holds, through unions, options and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, dict, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _sections(part)
