"""YAML whose every value knows its line and column, so that an error can name the place; no I/O.

Stricter than YAML: a key that occurs twice, an anchor, and a tag are errors, and so is a document too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import yaml

from whimbrel.core.errors import InputRefused

MAX_CHARACTERS = 4 << 20
_MAX_DEPTH = 64

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Counted from 1, as editors do."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Document:
    """One document and where each of its keys and items stands, by its path; `()` is the document itself."""

    value: Any
    places: Mapping[Path, Place]
    source: str

    def place(self, path: Sequence[str | int]) -> Place:
        """Of the nearest that is there: of what is missing, of the mapping that lacks it."""
        known = tuple(path)
        while known not in self.places and known:
            known = known[:-1]
        return self.places.get(known, Place(1, 1))

    def at(self, path: Sequence[str | int]) -> str:
        return f"{self.source}:{self.place(path)}"


def documents(text: str, source: str) -> list[Document]:
    """Every document that is not empty. Raises InputRefused with `source:line:column` for what is no such YAML."""
    if len(text) > MAX_CHARACTERS:
        raise InputRefused(f"{source}: expected at most {MAX_CHARACTERS} characters, seen {len(text)}")
    try:
        nodes = [node for node in _nodes(text, source) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{_place(mark)}" if mark else source
        raise InputRefused(f"{where}: expected YAML, seen {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputRefused(f"{source}: expected YAML, seen {error}") from None
    return [found for node in nodes if (found := _document(node, source)).value is not None]


def _nodes(text: str, source: str) -> Iterator[yaml.Node]:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise InputRefused(f"{source}:{_place(event.start_mark)}: expected at most {_MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise InputRefused(f"{source}:{_place(event.start_mark)}: expected no YAML aliases, seen *{event.anchor}")
    yield from yaml.compose_all(text, Loader=yaml.SafeLoader)


def _document(root: yaml.Node, source: str) -> Document:
    reader = _Reader(source)
    value = reader.read(root, ())
    return Document(value, reader.places, source)


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._constructor = yaml.constructor.SafeConstructor()
        self.places: dict[Path, Place] = {}

    def read(self, node: yaml.Node, path: Path) -> Any:
        self.places.setdefault(path, _place(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self._refuse(node, f"expected a plain value, seen {error}")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in found:
                first = self.places[(*path, key)]
                self._refuse(key_node, f"{key!r} occurs twice, first in line {first.line}")
            self.places[(*path, key)] = _place(key_node.start_mark)
            found[key] = self.read(value_node, (*path, key))
        return found

    def _key(self, node: yaml.Node) -> str:
        key = self._constructor.construct_object(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str) or node.tag == "tag:yaml.org,2002:merge":
            self._refuse(node, f"expected a text as key, seen {_seen(node)}; write it in quotes")
        return key

    def _refuse(self, node: yaml.Node, why: str) -> NoReturn:
        raise InputRefused(f"{self._source}:{_place(node.start_mark)}: {why}")


def _seen(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a mapping or a list"


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)
