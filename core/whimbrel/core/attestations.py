"""What the registry says of a version beside its digest: how far a lower precision agrees, and code compiled for it.

Both are measured or made for one kind of hardware, often long after the package, so they are no part of it: they are
tags of the registered version, and whoever trusts those for the digest trusts them for this. A model pointer carries
them along.

    whimbrel.agreement.<class>-<dtype>   an `Agreement`, JSON
    whimbrel.compiled.<16 hex digits>    a `CompiledCode`, JSON; its file lies beside the package, at `path`
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whimbrel.core.hardware import Target

AGREEMENT_TAG: Final = "whimbrel.agreement."
COMPILED_TAG: Final = "whimbrel.compiled."
LEAST_AGREEMENT: Final = 0.995
MAX_CODE_BYTES: Final = 256 * 1024 * 1024
MAX_OF_A_KIND: Final = 32
_MAX_TAG_CHARACTERS: Final = 5000  # MLflow's own limit
_CONFIG = ConfigDict(frozen=True, extra="forbid")

Dtype = Literal["float32", "bfloat16", "float16"]

logger = logging.getLogger(__name__)


class Agreement(BaseModel):
    """Of the `images` of the calibration set that were compared, `agreeing` had the same top label as in float32."""

    model_config = _CONFIG

    hardware_class: str = Field(pattern=r"^[A-Za-z0-9._-]{1,60}$")
    torch: str = Field(min_length=1, max_length=100)
    dtype: Dtype
    images: int = Field(ge=1)
    agreeing: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Agreement:
        if self.agreeing > self.images:
            raise ValueError("agreeing: expected at most as many as images")
        return self

    @property
    def suffices(self) -> bool:
        return self.agreeing >= LEAST_AGREEMENT * self.images

    @property
    def figures(self) -> str:
        return f"{self.agreeing} of {self.images} images ({self.agreeing / self.images:.2%})"


class CompiledCode(BaseModel):
    """Machine code of the network, without weights, for batches of 1 to `max_batch` images."""

    model_config = _CONFIG

    target: Target
    dtype: Dtype
    max_batch: int = Field(ge=1, le=4096)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int = Field(ge=1, le=MAX_CODE_BYTES)

    @property
    def path(self) -> str:
        """Beside the package. Content decides it, so that code that is made again replaces nothing in use."""
        return f"compiled/{self.sha256[:16]}.pt2"


class Attestations(BaseModel):
    model_config = _CONFIG

    agreements: tuple[Agreement, ...] = Field(default=(), max_length=MAX_OF_A_KIND)
    compiled: tuple[CompiledCode, ...] = Field(default=(), max_length=MAX_OF_A_KIND)

    def agreement(self, target: Target, dtype: str) -> Agreement | None:
        """The one that was measured on hardware of this class, with this torch."""
        wanted = (target.hardware_class, target.torch, dtype)
        return next((each for each in self.agreements if (each.hardware_class, each.torch, each.dtype) == wanted), None)


NOTHING: Final = Attestations()


def tag_of(attestation: Agreement | CompiledCode) -> tuple[str, str]:
    """Key and value of the registry's tag."""
    if isinstance(attestation, Agreement):
        key = f"{AGREEMENT_TAG}{attestation.hardware_class}-{attestation.dtype}"
    else:
        key = f"{COMPILED_TAG}{attestation.sha256[:16]}"
    return key, attestation.model_dump_json()


def of_tags(tags: Mapping[str, str]) -> Attestations:
    """Those among a version's tags. What is malformed counts as absent: without it the network runs, only slower."""
    agreements, compiled = list[Agreement](), list[CompiledCode]()
    for key, value in sorted(tags.items()):
        try:
            if key.startswith(AGREEMENT_TAG):
                agreements.append(Agreement.model_validate_json(value[:_MAX_TAG_CHARACTERS]))
            elif key.startswith(COMPILED_TAG):
                compiled.append(CompiledCode.model_validate_json(value[:_MAX_TAG_CHARACTERS]))
        except ValidationError:
            logger.warning("passed over the tag %s, which is malformed", key)
    return Attestations(agreements=tuple(agreements[:MAX_OF_A_KIND]), compiled=tuple(compiled[:MAX_OF_A_KIND]))
