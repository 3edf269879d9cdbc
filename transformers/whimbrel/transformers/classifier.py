"""An encoded image to its labels or objects: decode by the model's preset, ask the predictor, say so in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.core import tracing
from whimbrel.core.errors import WhimbrelError
from whimbrel.core.metrics import TRANSFORMER_IMAGES
from whimbrel.core.package import Preset
from whimbrel.transformers.answers import Answer, Named
from whimbrel.transformers.decoder import Decoder
from whimbrel.transformers.placement import Placement
from whimbrel.transformers.predictor import Prepare
from whimbrel.transformers.timing import DECODE, PREDICT, Timing

logger = logging.getLogger(__name__)


class Answering(Protocol):
    """A predictor, whoever made it: it has the image prepared by the preset that it needs."""

    async def classify(self, prepare: Prepare, key: str, named: Named | None = None) -> Answer: ...

    async def close(self) -> None: ...


class Classifier:
    def __init__(self, decoder: Decoder, predictor: Answering) -> None:
        self._decoder, self._predictor = decoder, predictor

    async def classify(self, content: bytes, timing: Timing, key: str, named: Named | None = None) -> Answer:
        """`key` is what a second try for this image has again: a split between versions decides by it, unless
        one is `named`.

        Raises what `Decoder.decode` and `Answering.classify` raise.
        """

        placed: Placement | None = None  # of the last preset, whose version is the one that answers

        async def prepare(preset: Preset) -> NDArray[np.uint8]:
            nonlocal placed
            with timing.stage(DECODE), tracing.span("transformer.decode"):
                decoded = await self._decoder.decode(content, preset)
            placed = decoded.placement
            return decoded.pixels

        with timing.stage(PREDICT):
            answer = await self._predictor.classify(prepare, key, named)
        return answer if placed is None else answer.told_in(placed)


@contextmanager
def counted() -> Iterator[None]:
    """Counts one image as answered, or by the reason why it was not."""
    try:
        yield
    except WhimbrelError as error:
        TRANSFORMER_IMAGES.labels(error.reason).inc()
        raise
    TRANSFORMER_IMAGES.labels("answered").inc()


def log_answer(answer: Answer, timing_ms: dict[str, float]) -> None:
    """The line that the README's walk shows; the ids of the request, the event and the object are bound already."""
    best = answer.predictions[0] if answer.predictions else None
    message = f"label: {best.label}, score: {best.score:.3f}" if best else "nothing found"
    if best and best.box is not None:
        message += f", the best of {len(answer.predictions)}"
    logger.info(message, extra={"model_version": answer.model.version, "timing_ms": timing_ms})
