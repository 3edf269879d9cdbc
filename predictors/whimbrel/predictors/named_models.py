"""The models and ensembles of one process, as its settings name them: NAME=URI[@DIGEST] and NAME=RULE:MEMBER,..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast, get_args

from whimbrel.core.attestations import NOTHING, Attestations
from whimbrel.core.model_pointer import POINTER_PREFIX
from whimbrel.core.settings import split_lines
from whimbrel.predictors.null_network import URI as NULL_URI

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
URI = rf"((pointer\+)?s3://[^/]+/.+|file:///.+|models:/[^/]+(@|/)[^/@]+|{NULL_URI})"
_DIGEST = r"sha256:[0-9a-f]{64}"
_MODEL = re.compile(rf"(?P<name>{NAME})=(?P<uri>.+?)(@(?P<digest>{_DIGEST}))?")
_ENSEMBLE = re.compile(rf"(?P<name>{NAME})=(?P<rule>[a-z]+):(?P<members>.+)")
_MEMBER = re.compile(rf"(?P<name>{NAME})(\*(?P<weight>[0-9]{{1,6}}(\.[0-9]{{1,6}})?))?")

Rule = Literal["average", "vote"]


@dataclass(frozen=True, slots=True)
class NamedModel:
    """`digest`: the package to expect. `version`: what to answer with in place of the registry's. `attestations`: the
    registry's of that package, where it is not asked."""

    name: str
    uri: str
    digest: str | None = None
    version: str | None = None
    attestations: Attestations = NOTHING

    @property
    def is_pointed(self) -> bool:
        return self.uri.startswith(POINTER_PREFIX)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    weight: Fraction


@dataclass(frozen=True, slots=True)
class NamedEnsemble:
    name: str
    rule: Rule
    members: tuple[Member, ...]


def models_of(value: Any) -> Any:
    """A validator (mode before): each entry as a NamedModel."""
    return tuple(_model_of(each) if isinstance(each, str) else each for each in split_lines(value))


def ensembles_of(value: Any) -> Any:
    """A validator (mode before): each entry as a NamedEnsemble."""
    return tuple(_ensemble_of(each) if isinstance(each, str) else each for each in split_lines(value))


def check_pinned(model: NamedModel) -> None:
    """Raises ValueError for what would load unpinned, and for a pin where a pointer has its own."""
    if model.uri.startswith(("s3:", "file:")) and model.digest is None:
        raise ValueError(f"model {model.name!r}: expected the digest of {model.uri!r}, which does not load unpinned")
    if model.is_pointed and model.digest is not None:
        raise ValueError(f"model {model.name!r}: expected no digest beside a model pointer, which names its own")


def check_names(models: Sequence[NamedModel], ensembles: Sequence[NamedEnsemble]) -> None:
    """Raises ValueError for a name that is given twice, and for a member that is no model of this process."""
    names = [each.name for each in models] + [each.name for each in ensembles]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"model and ensemble: expected each name once, seen {twice!r} again")
    known = {each.name for each in models}
    for ensemble in ensembles:
        absent = [member.name for member in ensemble.members if member.name not in known]
        if absent:
            raise ValueError(
                f"ensemble {ensemble.name!r}: expected members among the models {', '.join(sorted(known))}, seen "
                f"{', '.join(map(repr, absent))}"
            )


def check_pointers(models: Sequence[NamedModel]) -> None:
    """Raises ValueError for two pointers in one folder: the reports beside them would be taken for each other's."""
    folders: dict[str, NamedModel] = {}
    for model in (each for each in models if each.is_pointed):
        folder = model.uri.rpartition("/")[0]
        if folder in folders:
            raise ValueError(
                f"model {model.name!r}: expected a pointer in a folder of its own, seen {model.uri!r} beside "
                f"{folders[folder].uri!r}; the replicas' reports lie in that folder"
            )
        folders[folder] = model


def _model_of(entry: str) -> NamedModel:
    found = _MODEL.fullmatch(entry)
    if found is None or not re.fullmatch(URI, found["uri"]):
        raise ValueError("expected NAME=URI or NAME=URI@sha256:DIGEST, the URI as model_uri has it")
    return NamedModel(found["name"], found["uri"], found["digest"])


def _ensemble_of(entry: str) -> NamedEnsemble:
    found = _ENSEMBLE.fullmatch(entry)
    if found is None or found["rule"] not in get_args(Rule):
        raise ValueError(f"expected NAME={'|'.join(get_args(Rule))}:MEMBER[*WEIGHT],MEMBER[*WEIGHT],...")
    members = tuple(_member_of(each.strip()) for each in found["members"].split(","))
    if len({member.name for member in members}) < max(2, len(members)):
        raise ValueError("expected two members or more, each once")
    return NamedEnsemble(found["name"], cast(Rule, found["rule"]), members)


def _member_of(text: str) -> Member:
    found = _MEMBER.fullmatch(text)
    weight = Fraction(found["weight"] or 1) if found else Fraction(0)
    if found is None or not weight:
        raise ValueError("expected members as NAME or NAME*WEIGHT, the weight above 0")
    return Member(found["name"], weight)
