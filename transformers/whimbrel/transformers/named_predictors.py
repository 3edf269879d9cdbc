"""The predictors behind one transformer, by the model that each serves: NAME, or NAME=HOST[:PORT]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from whimbrel.core.settings import split_lines

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
HOST = r"[A-Za-z0-9._-]+(:[0-9]{1,5})?"
_PREDICTOR = re.compile(rf"(?P<name>{NAME})(=(?P<host>{HOST}))?")


@dataclass(frozen=True, slots=True)
class NamedPredictor:
    """`host`: HOST or HOST:PORT; None for the one that serves the first model, too."""

    model_name: str
    host: str | None = None


def predictors_of(value: Any) -> Any:
    """A validator (mode before): each entry as a NamedPredictor."""
    return tuple(_predictor_of(each) if isinstance(each, str) else each for each in split_lines(value))


def _predictor_of(entry: str) -> NamedPredictor:
    found = _PREDICTOR.fullmatch(entry)
    if found is None:
        raise ValueError("expected NAME or NAME=HOST[:PORT]")
    return NamedPredictor(found["name"], found["host"])
