"""A folder of images as a calibration set: decoded as the transformer decodes what a predictor gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.core import calibration
from whimbrel.core.errors import InputRefused, WhimbrelError
from whimbrel.core.package import Preset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FILES = 1_000_000


def calibration_images(folder: Path, preset: Preset) -> NDArray[np.uint8]:
    """(N, height, width, 3) of the files below `folder`; of more than a set may have, some from all over it.

    Raises InputRefused, which names the first file that is no image.
    """
    import numpy as np

    from whimbrel.transformers.decode import Limits, decode

    if not folder.is_dir():
        raise InputRefused(f"expected a folder of images for --calibration, seen none at {folder}")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not calibration.MIN_IMAGES <= len(found) <= MAX_FILES:
        raise InputRefused(
            f"expected {calibration.MIN_IMAGES} to {MAX_FILES} images in {folder} for --calibration, seen {len(found)}"
        )
    images = []
    for path in calibration.spread(found, preset):
        try:
            images.append(decode(path.read_bytes(), preset, Limits()))
        except WhimbrelError as error:
            raise InputRefused(f"{path}: {error}") from None
    return np.stack(images)
