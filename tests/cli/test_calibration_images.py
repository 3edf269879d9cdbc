"""A folder of images becomes a calibration set, decoded as what a predictor gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whimbrel.cli.calibration_images import calibration_images
from whimbrel.core.calibration import MIN_IMAGES
from whimbrel.core.errors import InputRefused
from whimbrel.core.package import Preset

PRESET = Preset(height=4, width=6)


def folder(path: Path, count: int) -> Path:
    for number in range(count):
        place = path / str(number % 3) / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 12, 3), number % 256, np.uint8)).save(place)
    return path


def test_every_image_below_the_folder_is_decoded_by_the_preset(tmp_path: Path) -> None:
    (folder(tmp_path, MIN_IMAGES) / ".hidden").write_text("no image")
    images = calibration_images(tmp_path, PRESET)
    assert images.shape == (MIN_IMAGES, 4, 6, 3)
    assert sorted(images[:, 0, 0, 0].tolist()) == sorted(number % 256 for number in range(MIN_IMAGES))


def test_too_few_images_and_what_is_no_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="expected a folder of images"):
        calibration_images(tmp_path / "absent", PRESET)
    with pytest.raises(InputRefused, match=f"expected {MIN_IMAGES} to .* seen 5"):
        calibration_images(folder(tmp_path / "few", 5), PRESET)
    broken = folder(tmp_path / "broken", MIN_IMAGES)
    (broken / "letter.txt").write_text("Dear folder")
    with pytest.raises(InputRefused, match=r"letter\.txt: "):
        calibration_images(broken, PRESET)
