"""Which form an answer has: the objects themselves, or the Table that kubectl prints; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whimbrel.local.api import columns
from whimbrel.local.api.faults import BadRequest, NotAcceptable
from whimbrel.local.api.kinds import Column, Kind
from whimbrel.local.api.metadata import Object

_META = "meta.k8s.io/v1"
_NAME = Column("Name", ".metadata.name")
_JSON = ("application/json", "application/*", "*/*", "")


@dataclass(frozen=True, slots=True)
class Form:
    """`include`: what a row carries of its object; without `table`, PartialObjectMetadata or all of it."""

    table: bool = False
    include: str = "Object"


def negotiated(accept: str, include: str) -> Form:
    """The first form of an Accept header that is written here. Raises NotAcceptable."""
    for offered in accept.split(","):
        media, *parameters = (part.strip() for part in offered.split(";"))
        if media not in _JSON:
            continue
        wanted = dict(part.split("=", 1) for part in parameters if "=" in part)
        shape, version = wanted.get("as", ""), wanted.get("v", "v1")
        if shape == "Table" and version == "v1":
            if include not in ("", "None", "Metadata", "Object"):
                raise BadRequest(f"includeObject: expected None, Metadata or Object, seen {include!r:.40}")
            return Form(table=True, include=include or "Metadata")
        if shape in ("PartialObjectMetadata", "PartialObjectMetadataList") and version == "v1":
            return Form(include="Metadata")
        if not shape:
            return Form()
    raise NotAcceptable(f"expected application/json among what is accepted, seen {accept!r:.120}")


def one(kind: Kind, form: Form, found: Object, *, with_columns: bool = True) -> Object:
    """One object in its form."""
    if form.table:
        return _table(kind, form, [found], {"resourceVersion": found["metadata"]["resourceVersion"]}, with_columns)
    return _partial(found) if form.include == "Metadata" else found


def many(kind: Kind, form: Form, items: Sequence[Object], metadata: Object) -> Object:
    """A list in its form."""
    if form.table:
        return _table(kind, form, items, metadata, True)
    if form.include == "Metadata":
        partial = [_partial(each) for each in items]
        return {"kind": "PartialObjectMetadataList", "apiVersion": _META, "metadata": metadata, "items": partial}
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": [*items]}


def _table(kind: Kind, form: Form, items: Sequence[Object], metadata: Object, with_columns: bool) -> Object:
    now, shown = columns.utc_now(), _columns(kind)
    rows: list[dict[str, Any]] = []
    for found in items:
        cells = [columns.cell(column, found, now) for column in shown]
        carried = {} if form.include == "None" else {"object": found if form.include == "Object" else _partial(found)}
        rows.append({"cells": cells, **carried})
    definitions = [_definition(each) for each in shown] if with_columns else []
    return {"kind": "Table", "apiVersion": _META, "metadata": metadata, "columnDefinitions": definitions, "rows": rows}


def _columns(kind: Kind) -> tuple[Column, ...]:
    named = any(column.name == _NAME.name for column in kind.columns)
    return kind.columns if named else (_NAME, *kind.columns)


def _definition(column: Column) -> dict[str, Any]:
    # Dates are written as ages already, so they are strings to whoever prints them.
    shown = "string" if column.type == "date" else column.type
    form = "name" if column.name == _NAME.name else ""
    words = {"name": column.name, "description": column.name}
    return {**words, "type": shown, "format": form, "priority": column.priority}


def _partial(found: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": found["metadata"]}
