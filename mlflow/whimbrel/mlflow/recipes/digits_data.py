"""scikit-learn's handwritten digits as pictures, in one fixed split: trained on, tuned on, and held out."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 8
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 450
VALIDATION = 180
SPLIT_SEED = 7
CALIBRATION = 500


@dataclass(frozen=True)
class DigitPicture:
    """`index` is the picture's place in scikit-learn's data; `label` is the digit, 0 to 9."""

    index: int
    png: bytes
    label: int

    @property
    def name(self) -> str:
        """The label as the model package spells it."""
        return LABELS[self.label]


@dataclass(frozen=True)
class Part:
    """Pictures (N, 8, 8) uint8, grey, with their labels (N,) int64 and their places in scikit-learn's data (N,)."""

    indices: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Stratified by label. `held_out` is for one purpose: to say how good a finished network is."""

    train: Part
    validation: Part
    held_out: Part

    @property
    def digest(self) -> str:
        """sha256 of every picture, label and place: which data a network was made from."""
        sha256 = hashlib.sha256()
        for part in (self.train, self.validation, self.held_out):
            for array in (part.indices, part.images, part.labels):
                sha256.update(array.tobytes())
        return f"sha256:{sha256.hexdigest()}"


@cache
def split() -> Split:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)

    def part(indices: npt.NDArray[np.int64]) -> Part:
        return Part(indices, images[indices], labels[indices])

    everything = np.arange(len(labels), dtype=np.int64)
    seen, held_out = train_test_split(everything, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
    train, validation = train_test_split(seen, test_size=VALIDATION, stratify=labels[seen], random_state=SPLIT_SEED)
    return Split(part(train), part(validation), part(held_out))


def calibration_images(parts: Split) -> npt.NDArray[np.uint8]:
    """(500, 8, 8, 3) RGB: those that the epoch was chosen by, then those that were trained on. None is held out."""
    import numpy as np

    grey = np.concatenate([parts.validation.images, parts.train.images])[:CALIBRATION]
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def held_out() -> list[DigitPicture]:
    """The held-out pictures as PNG files, which decode to exactly the pixels that networks are evaluated on."""
    return _pictures(split().held_out)


def validation() -> list[DigitPicture]:
    """Those that the epoch was chosen by, and nothing was trained on: what versions are compared by before traffic."""
    return _pictures(split().validation)


def _pictures(part: Part) -> list[DigitPicture]:
    from PIL import Image

    pictures = []
    for index, pixels, label in zip(part.indices, part.images, part.labels, strict=True):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        pictures.append(DigitPicture(int(index), png.getvalue(), int(label)))
    return pictures
