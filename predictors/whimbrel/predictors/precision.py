"""In which dtype a network is computed: as the settings say, or the lowest that agrees with float32.

`auto` takes the precision that the hardware multiplies in (bfloat16, where it has it) once the top label of at least
99.5% of the package's calibration set is the same as in float32. That is measured once for a package, a class of
hardware and a version of torch: the registry attests it, or a record beside the package cache, or it is measured at
the load, which takes as long as computing the set twice. Otherwise it is float32. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from whimbrel.core.attestations import LEAST_AGREEMENT, NOTHING, Agreement, Attestations
from whimbrel.core.hardware import BFLOAT16, Target
from whimbrel.core.package import Package, go_on
from whimbrel.core.tensors import CLASSIFICATION
from whimbrel.predictors import agreement_records

AUTO: Final = "auto"
FLOAT32: Final = "float32"
FLOAT16: Final = "float16"
Precision = Literal["auto", "float32", "bfloat16", "float16"]
BYTES: Final = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}


@dataclass(frozen=True, slots=True)
class Asked:
    """`dtype`: the setting. `cache`: where records are kept, None for nowhere. `longest_seconds`: most that one
    measurement may take; `check` is called in it every so often, and ends it by raising."""

    dtype: Precision = AUTO
    attestations: Attestations = NOTHING
    cache: Path | None = None
    longest_seconds: float = 60.0
    check: Callable[[], None] = go_on


@dataclass(frozen=True, slots=True)
class Chosen:
    """`why`: half a line for the log."""

    dtype: str
    why: str


def choose(
    package: Package, own: str, target: Target, asked: Asked, measure: Callable[[str], Agreement | None]
) -> Chosen:
    """The dtype for `package`, whose weights are stored in `own`, on `target`.

    `measure` compares a dtype with float32 on the calibration set; None where it did not come to an end in time.
    """
    settled = _settled(package, own, target, asked)
    if settled is not None:
        return settled
    lower = target.lower_dtype
    assert lower is not None  # noqa: S101 it was not settled
    known, whence = _known(package, target, lower, asked)
    if known is None:
        known, whence = measure(lower), "as measured now"
        if known is not None and asked.cache is not None:
            agreement_records.write(asked.cache, package.digest, target, known)
    if known is None:
        return Chosen(FLOAT32, f"{lower} was not compared with it within {asked.longest_seconds:g} s")
    return _judged(known, whence)


def at_once(package: Package, own: str, target: Target, asked: Asked) -> tuple[str, ...]:
    """The dtypes that the weights are in at the same time while `choose` and what follows from it are done: both that
    are compared, where they are."""
    settled = _settled(package, own, target, asked)
    if settled is not None:
        return (settled.dtype,)
    lower = target.lower_dtype
    assert lower is not None  # noqa: S101 it was not settled
    known, whence = _known(package, target, lower, asked)
    return (FLOAT32, lower) if known is None else (_judged(known, whence).dtype,)


def stored_bytes_in(stored: int, stored_dtype: str, dtype: str) -> int:
    """Memory in `dtype` for weights that take `stored` bytes in the package."""
    return stored * BYTES.get(dtype, 4) // BYTES.get(stored_dtype, 4)


def _known(package: Package, target: Target, lower: str, asked: Asked) -> tuple[Agreement | None, str]:
    """What was measured before, and half a line on where."""
    attested = asked.attestations.agreement(target, lower)
    if attested is not None or asked.cache is None:
        return attested, "as registered"
    return agreement_records.read(asked.cache, package.digest, target, lower), "as measured here before"


def _settled(package: Package, own: str, target: Target, asked: Asked) -> Chosen | None:
    """What needs no agreement; None where it decides."""
    if asked.dtype != AUTO:
        return Chosen(asked.dtype, "as set")
    if own not in BYTES:
        return Chosen(own, "the only one that these weights are for")
    if own != FLOAT32:
        return _of_lower_weights(own, target)
    why_not = _why_not_lower(package, target)
    return None if why_not is None else Chosen(FLOAT32, why_not)


def _of_lower_weights(own: str, target: Target) -> Chosen:
    """Whoever stored them so has decided on the precision; float32 says the same where the hardware has it not."""
    if own == target.lower_dtype or (own == FLOAT16 and target.device == "cuda"):
        return Chosen(own, "the precision that the weights are stored in")
    return Chosen(FLOAT32, f"the weights are stored in {own}, which {target.hardware_class} does not multiply in")


def _why_not_lower(package: Package, target: Target) -> str | None:
    if target.lower_dtype is None:
        return f"{target.hardware_class} multiplies in no lower precision"
    if package.manifest.task != CLASSIFICATION:
        return f"there is no measure of how far a lower precision agrees for the task {package.manifest.task}"
    if package.calibration is None:
        return f"the package has no calibration set to try {target.lower_dtype} on"
    return None


def _judged(known: Agreement, whence: str) -> Chosen:
    found = f"{known.dtype} has the same top label for {known.figures}, {whence}, {LEAST_AGREEMENT:.1%} are needed"
    return Chosen(known.dtype if known.suffices else FLOAT32, found)
