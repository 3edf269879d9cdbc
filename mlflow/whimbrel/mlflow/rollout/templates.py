"""Rollout templates: what a rollout of each model is made of but its two versions; a YAML file, strict.

    models:
      digits:
        inferenceService: digits
        pointer: s3://models/digits/pointer.json
        knownObjects: s3://models/digits/known.jsonl
        evidence: s3://models/digits/rollouts
        policy: {promotion: Manual}

An entry has the fields of a ModelRollout's spec. Only the models that are named here are followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from whimbrel.core.errors import InputRefused
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.mlflow.rollout.policy import policy_for
from whimbrel.mlflow.rollout.resource import Spec

MAX_BYTES: Final = 256 * 1024
MAX_MODELS: Final = 200
_NOT_A_TEMPLATES: Final = ("model", "candidate", "champion", "paused", "decision", "forced")
_ANY: Final = PointedVersion(version="any", uri="s3://any/package", digest="sha256:" + "0" * 64)
_ANOTHER: Final = _ANY.model_copy(update={"version": "another"})


@dataclass(frozen=True, slots=True)
class Template:
    """Of one model. `fields` are the spec's, checked."""

    model: str
    fields: Mapping[str, Any]
    origin: str

    @property
    def known_objects(self) -> str | None:
        return self.spec(_ANY, _ANOTHER, truth_known=True).known_objects

    def spec(self, candidate: PointedVersion, champion: PointedVersion, *, truth_known: bool) -> Spec:
        """Raises InputRefused that names each wrong field."""
        where = f"{self.origin}: models.{self.model}"
        policy = policy_for(self.fields.get("policy") or {}, where, truth_known=truth_known)
        versions = {"model": self.model, "candidate": candidate, "champion": champion}
        try:
            return Spec.model_validate({**self.fields, **versions, "policy": policy})
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, each['loc'])) or 'rollout'}: {each['msg']}" for each in error.errors())
            raise InputRefused(f"{where}: " + "; ".join(faults)) from None


def read_templates(path: Path) -> dict[str, Template]:
    """By model. Raises InputRefused for a file that cannot be read, or that is wrong anywhere."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputRefused(f"expected rollout templates in {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise InputRefused(f"expected at most {MAX_BYTES} bytes of rollout templates in {path}, seen more")
    return parse_templates(content, str(path))


def parse_templates(content: bytes, origin: str) -> dict[str, Template]:
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise InputRefused(f"expected YAML in {origin}, seen {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or document.keys() != {"models"}:
        raise InputRefused(f"{origin}: expected one field, models, seen {_named(document)}")
    models = document["models"] or {}
    if not isinstance(models, dict) or len(models) > MAX_MODELS:
        raise InputRefused(f"{origin}: models: expected at most {MAX_MODELS} templates by the model's name")
    return {str(model): _template(str(model), fields, origin) for model, fields in models.items()}


def _template(model: str, fields: Any, origin: str) -> Template:
    if not isinstance(fields, dict):
        raise InputRefused(f"{origin}: models.{model}: expected the fields of a rollout, seen {_named(fields)}")
    given = [field for field in _NOT_A_TEMPLATES if field in fields]
    if given:
        raise InputRefused(
            f"{origin}: models.{model}: expected no {', '.join(given)}, which each rollout is given when it starts"
        )
    template = Template(model, fields, origin)
    template.spec(_ANY, _ANOTHER, truth_known=True)
    return template


def _named(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, dict) else type(value).__name__
