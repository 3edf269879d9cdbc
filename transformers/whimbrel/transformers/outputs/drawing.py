"""Draws what was recognised on the picture: boxes with their labels, keypoints, else the best label in a corner."""

from __future__ import annotations

import colorsys
import math
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whimbrel.core.results import Prediction

Colour = tuple[int, int, int]

_MAX_LABEL = 80  # characters
_QUALITY = 90  # of a JPEG


def draw(picture: NDArray[np.uint8], predictions: tuple[Prediction, ...]) -> Image.Image:
    """`picture` is (height, width, 3) RGB; `box` and `keypoints` are in its pixels. What lies outside is cut off."""
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    side = min(image.size)
    line, font = max(1, side // 200), ImageFont.load_default(max(8, side // 32))
    boxed = [prediction for prediction in predictions if _drawable(prediction, image.size)]
    for prediction in reversed(boxed):  # the best one last, on top
        colour = _colour(prediction.index)
        left, top, right, bottom = _corners(prediction, image.size)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        _points(canvas, prediction, colour, 2 * line)
        _caption(canvas, (left, top), prediction, colour, font)
    if not boxed and predictions:
        _caption(canvas, (0, 0), predictions[0], _colour(predictions[0].index), font)
    return image


def encoded(image: Image.Image, format_: str) -> bytes:
    """`jpeg` or `png`."""
    buffer = BytesIO()
    image.save(buffer, format_.upper(), **({"quality": _QUALITY} if format_ == "jpeg" else {}))
    return buffer.getvalue()


def _drawable(prediction: Prediction, size: tuple[int, int]) -> bool:
    """Whether it has a box of numbers with a part of it in the picture."""
    if prediction.box is None or not all(map(math.isfinite, prediction.box)):
        return False
    left, top, right, bottom = _corners(prediction, size)
    return right > left and bottom > top


def _corners(prediction: Prediction, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = prediction.box or (0, 0, 0, 0)
    across, down = size[0] - 1, size[1] - 1
    left, right = (min(max(side, 0), across) for side in (x, x + width))
    top, bottom = (min(max(side, 0), down) for side in (y, y + height))
    return left, top, right, bottom


def _points(canvas: ImageDraw.ImageDraw, prediction: Prediction, colour: Colour, radius: int) -> None:
    for x, y, score in prediction.keypoints or ():
        if score > 0 and abs(x) < 1e6 and abs(y) < 1e6:  # neither infinite nor no number
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _caption(
    canvas: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    prediction: Prediction,
    colour: Colour,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    text = f"{' '.join(prediction.label.split())[:_MAX_LABEL]} {prediction.score:.2f}"
    canvas.rectangle(canvas.textbbox(corner, text, font=font), fill=colour)
    canvas.text(corner, text, fill=(0, 0, 0), font=font)


def _colour(index: int) -> Colour:
    """Neighbouring indices get colours far apart: the golden ratio round the wheel, light enough for black text."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618033988749895 % 1, 0.6, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
