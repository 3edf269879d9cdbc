"""How a command names a version of a registered model."""

from __future__ import annotations

from whimbrel.core.errors import InputRefused


def selected(model: str) -> tuple[str, str]:
    """Name and selector, a version's number or an alias, of NAME/VERSION or NAME@ALIAS. Raises InputRefused."""
    name, mark, selector = model.replace("/", "@").partition("@")
    if not (name and mark and selector):
        raise InputRefused(f"expected NAME@ALIAS or NAME/VERSION, seen {model!r}")
    return name, selector
