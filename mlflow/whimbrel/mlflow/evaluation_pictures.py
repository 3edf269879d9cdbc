"""Draws an evaluation for a person: the confusion matrix, and sheets of the pictures worth a look, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from whimbrel.mlflow.evaluation import Answered, Evaluation

NAMED_LABELS: Final = 50  # more have no room for their names and figures
MAX_LABELS: Final = 1000  # one pixel for each pair
_CELL, _SIDE, _FONT, _CAPTION = 40, 128, 14, 330
_COLUMNS: Final = 6
_INK, _PAPER, _RIGHT, _WRONG = (32, 32, 32), (255, 255, 255), (31, 119, 80), (190, 60, 40)
_MAX_NAME: Final = 24


def confusion_png(evaluation: Evaluation) -> bytes | None:
    """Truth by row, answer by column, shaded by the share of the row; None for more than MAX_LABELS labels."""
    count = len(evaluation.labels)
    if count > MAX_LABELS:
        return None
    if count > NAMED_LABELS:
        return _png(_shades(evaluation).resize((max(count, 600), max(count, 600)), Image.Resampling.NEAREST))
    return _png(_named_matrix(evaluation))


def sheet_png(evaluation: Evaluation, answered: Sequence[Answered]) -> bytes | None:
    """The pictures as the network was given them, each with its truth, answer and score; None without any."""
    if not answered:
        return None
    font = _font()
    rows = -(-len(answered) // _COLUMNS)
    width, height = _SIDE + 16, _SIDE + 3 * _FONT + 22
    sheet = Image.new("RGB", (min(len(answered), _COLUMNS) * width, rows * height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, each in enumerate(answered):
        left, top = place % _COLUMNS * width + 8, place // _COLUMNS * height + 8
        sheet.paste(_scaled(Image.fromarray(each.pixels)), (left, top))
        answer = f"{_name(evaluation.labels[each.indices[0]])} {each.scores[0]:.2f}"
        lines = [(f"is {_name(evaluation.labels[each.truth])}", _INK), (answer, _RIGHT if each.right else _WRONG)]
        lines.append((each.name[-_MAX_NAME:], (120, 120, 120)))
        for line, (text, colour) in enumerate(lines):
            pen.text((left, top + _SIDE + 4 + line * (_FONT + 2)), _fitting(pen, text, font), colour, font)
    return _png(sheet)


def _named_matrix(evaluation: Evaluation) -> Image.Image:
    font, names = _font(), [_name(label) for label in evaluation.labels]
    margin = int(max(font.getlength(name) for name in names)) + 12
    side = len(names) * _CELL
    image = Image.new("RGB", (max(margin + side, _CAPTION) + 8, margin + side + 2 * _FONT), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((6, margin + side + 6), "by row what it is, by column what was answered", (120, 120, 120), font)
    image.paste(_shades(evaluation).resize((side, side), Image.Resampling.NEAREST), (margin, margin))
    for index, name in enumerate(names):
        middle = margin + index * _CELL + _CELL // 2
        pen.text((margin - 6, middle), name, _INK, font, anchor="rm")
        image.paste(_upright(name, font, margin), (middle - _FONT // 2 - 2, 0))
    totals = {index: each.pictures for index, each in enumerate(evaluation.by_label)}
    for (truth, answer), count in evaluation.confusion.items():
        place = margin + answer * _CELL + _CELL // 2, margin + truth * _CELL + _CELL // 2
        colour = _PAPER if count > totals[truth] / 2 else _INK
        pen.text(place, str(count), colour, font, anchor="mm")
    return image


def _shades(evaluation: Evaluation) -> Image.Image:
    """One pixel for each pair of labels: green what is right, red what is not, the darker the more of its row."""
    count = len(evaluation.labels)
    image = Image.new("RGB", (count, count), (245, 245, 245))
    totals = [each.pictures for each in evaluation.by_label]
    for (truth, answer), pictures in evaluation.confusion.items():
        # A few of many are to be seen too.
        share = 0.15 + 0.85 * pictures / totals[truth]
        ink = _RIGHT if truth == answer else _WRONG
        red, green, blue = (round(255 - share * (255 - channel)) for channel in ink)
        image.putpixel((answer, truth), (red, green, blue))
    return image


def _upright(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, length: int) -> Image.Image:
    strip = Image.new("RGB", (length, _FONT + 6), _PAPER)
    ImageDraw.Draw(strip).text((6, (_FONT + 6) // 2), text, _INK, font, anchor="lm")
    return strip.rotate(90, expand=True)


def _scaled(picture: Image.Image) -> Image.Image:
    """To fit the sheet: large ones smoothly, small ones with their pixels to be seen."""
    scale = _SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT)


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(text) > 1 and pen.textlength(text, font) > _SIDE + 8:
        text = text[:-2] + "…"
    return text


def _name(label: str) -> str:
    return label if len(label) <= _MAX_NAME else label[: _MAX_NAME - 1] + "…"


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()
