"""Boxes and keypoints found in a model's input are told in pixels of the picture that came, whatever was done to it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from whimbrel.core.package import Preset
from whimbrel.core.results import Prediction
from whimbrel.transformers.decode import Limits, open_image, prepare
from whimbrel.transformers.placement import Placement, placement_of

# What turns the upright picture into the stored one, by the orientation that turns it back.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
RULES = [
    Preset(height=40, width=64, resize="stretch"),
    Preset(height=40, width=64, resize="pad"),
    Preset(height=40, width=64, resize="crop", resize_size=64),
]
SIZES = st.integers(1, 3000)


def stored(upright: Image.Image, orientation: int, format_: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = BytesIO()
    turned = upright.transpose(_STORED[orientation]) if orientation in _STORED else upright
    turned.save(target, format_, exif=exif, **({"quality": 95, "subsampling": 0} if format_ == "JPEG" else {}))
    return target.getvalue()


def bright_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width, height of what is bright."""
    rows, columns = np.nonzero(pixels[..., 1] >= 128)
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("preset", RULES, ids=lambda preset: preset.resize)
def test_a_box_found_in_the_input_is_where_it_is_in_the_picture(preset: Preset, orientation: int, format_: str) -> None:
    """Odd sides, so that a JPEG that is decoded at an eighth has blocks that it does not fill."""
    width, height, box = 1013, 739, (400, 300, 280, 200)
    upright = Image.new("RGB", (width, height))
    upright.paste((255, 255, 255), (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    opened = open_image(stored(upright, orientation, format_), preset, Limits())
    placement = opened.placement
    assert placement.size == (width, height)

    pixels = prepare(opened, preset, Limits())
    found = placement.prediction(Prediction(label="white", index=0, score=1, box=bright_box(pixels)))

    assert found is not None
    assert found.box == pytest.approx(box, abs=max(placement.scale))  # a pixel of the input


@given(
    size=st.tuples(SIZES, SIZES),
    by=st.sampled_from([1, 2, 4, 8]),
    orientation=st.integers(1, 8),
    preset=st.sampled_from(RULES),
    corners=st.tuples(*[st.floats(-5000, 5000)] * 4),
)
def test_whatever_is_found_lies_in_the_picture(
    size: tuple[int, int],
    by: int,
    orientation: int,
    preset: Preset,
    corners: tuple[float, float, float, float],
) -> None:
    decoded = (-(-size[0] // by), -(-size[1] // by))
    placement = placement_of(size, decoded, orientation, preset)
    left, right = sorted((corners[0], corners[2]))
    top, bottom = sorted((corners[1], corners[3]))
    box, points = (left, top, right - left, bottom - top), ((left, bottom, 0.5),)

    found = placement.prediction(Prediction(label="", index=0, score=1, box=box, keypoints=points))

    across, down = placement.size
    assert sorted(placement.size) == sorted(size)
    if found is not None and found.box is not None and found.keypoints is not None:
        x, y, width, height = found.box
        assert 0 <= x < x + width <= across + 1e-6
        assert 0 <= y < y + height <= down + 1e-6
        (point,) = found.keypoints
        assert (0 <= point[0] <= across, 0 <= point[1] <= down, point[2]) == (True, True, 0.5)


@given(size=st.tuples(SIZES, SIZES), orientation=st.integers(1, 8), preset=st.sampled_from(RULES))
def test_the_middle_stays_the_middle(size: tuple[int, int], orientation: int, preset: Preset) -> None:
    """Every rule is symmetric, up to the rounding of one pixel of the input."""
    placement = placement_of(size, size, orientation, preset)
    x, y = placement.point(preset.width / 2, preset.height / 2)
    assert x == pytest.approx(placement.size[0] / 2, abs=placement.scale[0])
    assert y == pytest.approx(placement.size[1] / 2, abs=placement.scale[1])


def test_without_a_preset_nothing_moves() -> None:
    found = Prediction(label="", index=0, score=1, box=(1, 2, 3, 4), keypoints=((5, 6, 1),))
    placement = placement_of((10, 20), (10, 20), 6, None)
    assert placement == Placement((20, 10))
    assert placement.prediction(found) == found


def test_a_box_beside_the_picture_is_left_out() -> None:
    placement = placement_of((100, 100), (100, 100), 1, Preset(height=40, width=80, resize="pad"))
    assert placement.prediction(Prediction(label="", index=0, score=1, box=(0, 0, 20, 40))) is None
    assert placement.prediction(Prediction(label="", index=0, score=1)) is not None
