"""From a YAML document to a `Function`; every fault with the line and column where it stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from whimbrel.core.errors import InputRefused
from whimbrel.kube.function import model
from whimbrel.kube.function.conflicts import Fault, conflicts
from whimbrel.kube.function.model import SCHEMA, Function
from whimbrel.kube.marked_yaml import Document, Path

_SECTIONS: Mapping[Path, type[BaseModel]] = {
    (): Function,
    ("input",): model.Input,
    ("output",): model.Output,
    ("model",): model.Model,
    ("resources",): model.Resources,
    ("gpu",): model.Gpu,
    ("scale",): model.Scale,
    ("transformer",): model.Transformer,
    ("transformer", "resources"): model.Resources,
    ("transformer", "scale"): model.TransformerScale,
    ("images",): model.Images,
}


class FunctionRefused(InputRefused):
    """`faults` has one line each, in the order of the file."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


def is_function(document: Document) -> bool:
    """Whether it means to be one: Kubernetes' objects have `kind`, and no `schema`."""
    found = document.value
    return isinstance(found, dict) and "kind" not in found and ("schema" in found or "input" in found)


def read_function(document: Document) -> Function:
    """Raises FunctionRefused with every fault that there is."""
    if not isinstance(document.value, dict):
        raise FunctionRefused([f"{document.at(())}: expected a function file, which begins with 'schema: {SCHEMA}'"])
    try:
        found = Function.model_validate(document.value)
    except ValidationError as error:
        faults: Iterable[Fault] = [_fault(each, document.value) for each in error.errors(include_url=False)]
    else:
        faults = conflicts(found)
        if not faults:
            return found
    raise FunctionRefused(_lines(faults, document))


def _lines(faults: Iterable[Fault], document: Document) -> list[str]:
    placed = sorted({(document.place(each.path), _dotted(each.path), each.message) for each in faults}, key=_order)
    return [f"{document.source}:{place}: {path + ': ' if path else ''}{message}" for place, path, message in placed]


def _order(placed: tuple[Any, str, str]) -> tuple[int, int, str, str]:
    place, path, message = placed
    return place.line, place.column, path, message


def _fault(error: Any, value: Any) -> Fault:
    path = _path(error["loc"], value)
    if error["type"] == "extra_forbidden":
        return Fault(path, _unknown(path, value))
    if error["type"] == "missing":
        return Fault(path[:-1], f"field {path[-1]!r} is missing")
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return Fault((*path, "kind"), _unknown_kind(error))
    seen = "" if isinstance(error["input"], dict | list) else f", seen {error['input']!r}"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return Fault(path, f"expected fields below it{seen}")
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "expected to", 1)
    message = message.replace("String should", "expected to", 1).replace("expected to be", "expected", 1)
    return Fault(path, f"{message}{seen}{_quoting(error)}")


def _path(location: Sequence[str | int], value: Any) -> Path:
    """The part of pydantic's location that the file has: not the tag of a union, nor what a short form stands for.

    What is last is kept where a mapping could have it: a field that is missing.
    """
    found: list[str | int] = []
    for index, part in enumerate(location):
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]  # type: ignore[index]
            found.append(part)
        elif index == len(location) - 1 and isinstance(value, dict) and part != "[key]":
            found.append(part)
    return tuple(found)


def _unknown(path: Path, value: Any) -> str:
    known = _known(path[:-1], value)
    close = difflib.get_close_matches(str(path[-1]), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown field{hint} (known: {', '.join(known)})"


def _unknown_kind(error: Any) -> str:
    seen = (error.get("ctx") or {}).get("tag")
    return f"expected one of {', '.join(model.SOURCES)}" + (f", seen {seen!r}" if seen else ", seen none")


def _known(path: Path, value: Any) -> list[str]:
    """The fields of the section at `path`, as the file spells them."""
    if path == ("input", "source"):
        section: type[BaseModel] = model.SOURCES[value["input"]["source"]["kind"]]
    else:
        section = _SECTIONS.get(path, model.SecretKey)
    return [field.alias or name for name, field in section.model_fields.items()]


def _quoting(error: Any) -> str:
    wants_text = error["type"] == "string_type" and isinstance(error["input"], bool | int | float)
    return "; write it in quotes" if wants_text else ""


def _dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
