"""Values that have to be texts: YAML 1.1 reads y, no, on and 8080 as something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whimbrel.kube.lint.rule import Fault, Manifests, Rule, error

_TEXTS = ("labels", "annotations", "matchLabels", "nodeSelector", "stringData")


def _not_texts(manifests: Manifests) -> Iterator[Fault]:
    for document in manifests.documents:
        names = (*_TEXTS, "data") if document.object["kind"] in ("ConfigMap", "Secret") else _TEXTS
        for path, value in _walk(document.object, "", names):
            yield Fault(document, path, f"{value!r}, a {type(value).__name__}")


def _walk(value: Any, path: str, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]", names)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            below = f"{path}.{name}" if path else str(name)
            if name in names and isinstance(item, Mapping):
                yield from _wrong(item.items(), below)
            elif name == "args" and isinstance(item, list):
                yield from _wrong(enumerate(item), below)
            elif name == "env" and isinstance(item, list):
                entries = [entry for entry in item if isinstance(entry, Mapping) and "value" in entry]
                yield from _wrong(((entry.get("name"), entry["value"]) for entry in entries), below)
            else:
                yield from _walk(item, below, names)


def _wrong(entries: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, value in entries:
        if not isinstance(value, str):
            yield f"{path}[{name}]", value


RULES: tuple[Rule, ...] = (
    error(
        "not-a-text",
        "the API server refuses a label, an annotation, an argument or a variable that is no text",
        'put the value in quotes: "y", "8080", "true"',
        _not_texts,
    ),
)
