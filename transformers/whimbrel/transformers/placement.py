"""Where a picture lies in a model's input, so that boxes and keypoints found there are told in the picture's pixels.

The picture is the upright one, as its EXIF orientation turns it and as every viewer shows it, in its own size.
"""

from __future__ import annotations

from dataclasses import dataclass

from whimbrel.core.package import Preset
from whimbrel.core.results import Prediction
from whimbrel.transformers.resize import SIDES_SWAPPED, corner, scaled_size

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, width, height

# A JPEG may be decoded at a half, a quarter or an eighth of its size; a last block that it does not fill counts as one.
_SHRINKINGS = (1, 2, 4, 8)
# The orientations that turn the right or the lower edge of the stored picture to the left or to the top.
_LEFT_WAS_AN_END, _TOP_WAS_AN_END = frozenset({2, 3, 6, 7}), frozenset({3, 4, 7, 8})


@dataclass(frozen=True, slots=True)
class Placement:
    """`size` of the upright picture; the input's corner lies at `origin` of it, and a pixel there is `scale` of its."""

    size: Size
    origin: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A point of the input in pixels of the picture, at its edge where it lies outside."""
        found = (self.origin[side] + at * self.scale[side] for side, at in enumerate((x, y)))
        across, down = (min(max(at, 0.0), float(length)) for at, length in zip(found, self.size, strict=True))
        return across, down

    def prediction(self, found: Prediction) -> Prediction | None:
        """`found` in the input, told in the picture and clipped to it; None for a box that lies beside the picture."""
        if found.box is None:
            return found
        x, y, width, height = found.box
        left, top = self.point(x, y)
        right, bottom = self.point(x + width, y + height)
        if right <= left or bottom <= top:
            return None
        points = found.keypoints and tuple((*self.point(x, y), score) for x, y, score in found.keypoints)
        return found.model_copy(update={"box": (left, top, right - left, bottom - top), "keypoints": points})


def placement_of(stored: Size, decoded: Size, orientation: int, preset: Preset | None) -> Placement:
    """Of a picture of size `stored` in its file that was decoded to `decoded` pixels, then turned upright and resized
    by `preset`; without one, in its own size."""
    swapped = orientation in SIDES_SWAPPED
    size, seen = ((side[1], side[0]) if swapped else side for side in (stored, decoded))
    if preset is None:
        return Placement(size)
    shrunk = _shrinking(size, seen)
    scaled, at = scaled_size(seen, preset), corner(seen, preset)
    flipped = (orientation in _LEFT_WAS_AN_END, orientation in _TOP_WAS_AN_END)
    scale, origin = [], []
    for side in (0, 1):
        scale.append(shrunk * seen[side] / scaled[side])
        beyond = shrunk * seen[side] - size[side] if flipped[side] else 0  # what fills the last block, now the first
        origin.append(-at[side] * scale[side] - beyond)
    return Placement(size, (origin[0], origin[1]), (scale[0], scale[1]))


def _shrinking(size: Size, decoded: Size) -> int:
    return next(by for by in _SHRINKINGS if tuple(-(-side // by) for side in size) == decoded)
