"""How every command prints: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PIPED_WIDTH = 240  # no line is folded that a program reads

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
progress_out = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line, as it is: never folded, no markup."""
    out.print(text, markup=False, soft_wrap=True)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


def print_json(document: Any) -> None:
    """Plain JSON, whatever the terminal: what a program reads."""
    out.out(json.dumps(document, indent=2, default=_jsonable), highlight=False)


def print_json_line(document: Any) -> None:
    out.out(json.dumps(document, default=_jsonable), highlight=False)


def table(*columns: str, title: str | None = None) -> Table:
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def add_rows(into: Table, rows: Iterable[Iterable[object]]) -> Table:
    """Add rows of plain text: what looks like rich's markup in a key is printed as it is."""
    for row in rows:
        into.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    return into


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return str(value)
