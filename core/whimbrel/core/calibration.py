"""The calibration set of a model package: images as the network gets them, on which a lower precision has to agree.

One tensor `images`, uint8 (N, H, W, 3) RGB, in safetensors; model.json lists the file with its digest. Labels are not
needed: what counts is whether the network says the same in either precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import InputRefused, PackageRefused
from whimbrel.core.package import CALIBRATION, MAX_CALIBRATION_BYTES, Package, Preset
from whimbrel.core.tensors import IMAGES

MIN_IMAGES: Final = 200  # with fewer, 99.5% of them is all of them, and says little about the next image
MAX_IMAGES: Final = 1024


def write(images: NDArray[np.uint8], preset: Preset, folder: Path) -> str:
    """Write `images` (N, height, width, 3) into `folder`; the file's name, for model.json.

    Raises InputRefused for another shape or type, fewer than MIN_IMAGES or more than MAX_IMAGES, or too many bytes.
    """
    from safetensors.numpy import save_file

    fault = _fault(images, preset)
    if fault is not None:
        raise InputRefused(f"calibration images: {fault}")
    save_file({IMAGES: np.ascontiguousarray(images)}, folder / CALIBRATION)
    return CALIBRATION


def read(package: Package) -> NDArray[np.uint8] | None:
    """The images (N, height, width, 3) of a verified package; None where it has none. Raises PackageRefused."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = package.calibration
    if path is None:
        return None
    try:
        images: Any = load_file(path).get(IMAGES)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # of dtypes that numpy has not
        raise PackageRefused(f"expected safetensors in {path}; {error}") from None
    fault = "no tensor 'images'" if images is None else _fault(images, package.manifest.preset)
    if fault is not None:
        raise PackageRefused(f"{path}: {fault}")
    checked: NDArray[np.uint8] = images
    return checked


def spread(found: Sequence[Path], preset: Preset) -> list[Path]:
    """At most as many of `found` as a set may have, from all over it: folders are often sorted by label."""
    most = min(MAX_IMAGES, (MAX_CALIBRATION_BYTES - 4096) // (preset.height * preset.width * 3))
    if len(found) <= most:
        return list(found)
    return [found[int(place)] for place in np.linspace(0, len(found) - 1, most)]


def _fault(images: NDArray[Any], preset: Preset) -> str | None:
    shape = (preset.height, preset.width, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        return f"expected uint8 (N, {preset.height}, {preset.width}, 3), seen {images.dtype} {images.shape}"
    if not MIN_IMAGES <= len(images) <= MAX_IMAGES:
        return f"expected {MIN_IMAGES} to {MAX_IMAGES} images, seen {len(images)}"
    if images.nbytes + 4096 > MAX_CALIBRATION_BYTES:
        return f"expected at most {MAX_CALIBRATION_BYTES} bytes, seen {images.nbytes}"
    return None
