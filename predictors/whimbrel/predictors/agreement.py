"""Compares the top labels of a network in a lower precision with its own in float32, on the calibration set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from whimbrel.core.attestations import LEAST_AGREEMENT, Agreement
from whimbrel.core.errors import ModelFailed
from whimbrel.core.hardware import Target
from whimbrel.core.tensors import INDICES
from whimbrel.predictors import memory
from whimbrel.predictors.network import Images, Outputs
from whimbrel.predictors.precision import Asked

BATCH = 32

Infer = Callable[[Images, int], Outputs]

logger = logging.getLogger(__name__)


def compared(
    reference: Infer, lower: Infer, images: Images, *, target: Target, dtype: str, asked: Asked
) -> Agreement | None:
    """How many of `images` have the same top label; ends early once too many differ for the precision to be taken.

    None where it took longer than `asked.longest_seconds`. A network that does not compute in `dtype` agrees nowhere.
    Raises what `reference` and `asked.check` raise, and a lack of memory.
    """
    began, agreeing, seen = time.monotonic(), 0, 0
    allowed = int((1 - LEAST_AGREEMENT) * len(images) + 1e-9)
    while seen < len(images) and seen - agreeing <= allowed:
        asked.check()
        if time.monotonic() - began > asked.longest_seconds:
            return None
        batch = images[seen : seen + BATCH]
        seen += len(batch)
        expected = reference(batch, 1)[INDICES]
        try:
            agreeing += int((lower(batch, 1)[INDICES] == expected).sum())
        except (RuntimeError, ModelFailed) as error:
            if memory.ran_short(error):
                raise  # which says nothing of the precision
            logger.info("the network does not compute in %s: %s", dtype, str(error)[:300])
    return Agreement(
        hardware_class=target.hardware_class, torch=target.torch, dtype=dtype, images=seen, agreeing=agreeing
    )
