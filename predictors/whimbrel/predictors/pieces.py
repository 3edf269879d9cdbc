"""The images of one request that travel together, and whom to blame when they do not compute."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from whimbrel.core.errors import ModelFailed, Unavailable, WhimbrelError
from whimbrel.predictors import memory
from whimbrel.predictors.network import Images, Outputs

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Piece:
    """At most a whole batch of the images of one request. `first`: which of that request's `of` images comes first."""

    images: Images
    top_k: int
    answer: asyncio.Future[Outputs]
    accepted: float
    first: int
    of: int

    def halves(self) -> list[Piece]:
        """Each with an answer of its own; for at least two images."""
        middle, loop = (len(self.images) + 1) // 2, self.answer.get_loop()
        return [
            Piece(images, self.top_k, loop.create_future(), self.accepted, self.first + start, self.of)
            for start, images in ((0, self.images[:middle]), (middle, self.images[middle:]))
        ]

    def fail(self, error: Exception) -> None:
        """Nobody may wait for it any more."""
        if not self.answer.done():
            self.answer.set_exception(error)


def pieces_of(images: Images, top_k: int, size: int, now: float) -> list[Piece]:
    """The images of one request in pieces of at most `size`."""
    loop, of = asyncio.get_running_loop(), len(images)
    return [
        Piece(images[start : start + size], top_k, loop.create_future(), now, start, of) for start in range(0, of, size)
    ]


def blamed(image: Piece, error: Exception) -> WhimbrelError:
    """What the request is answered whose one image failed alone: names the image where the request has several."""
    where = f"images[{image.first}]" if image.of > 1 else "the image"
    if isinstance(error, WhimbrelError):
        if image.of > 1:
            error.args = (f"{where}: {error}",)
        return error
    if memory.ran_short(error):
        return Unavailable(f"expected memory to compute {where}, seen too little", retry_after_seconds=5)
    logger.error("a network failed at one image", exc_info=error)
    return ModelFailed(f"expected a network that computes {where}, seen {type(error).__name__}")
