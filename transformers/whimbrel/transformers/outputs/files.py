"""From a picture and its result to the files that are asked for; the same input gives the same bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.results import Result
from whimbrel.transformers.outputs.coco import coco
from whimbrel.transformers.outputs.drawing import draw, encoded
from whimbrel.transformers.outputs.settings import COCO, IMAGE, ZIP, OutputsSettings

CONTENT_TYPES = {"jpeg": "image/jpeg", "png": "image/png", COCO: "application/json", ZIP: "application/zip"}

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def files(picture: NDArray[np.uint8], result: Result, settings: OutputsSettings) -> Iterator[tuple[str, bytes, str]]:
    """Kind, content and content type of each output. Blocking."""
    wanted, format_ = settings.outputs, settings.outputs_image_format
    image = encoded(draw(picture, result.predictions), format_) if {IMAGE, ZIP} & set(wanted) else b""
    boxes = coco(result, picture.shape[1], picture.shape[0])
    for kind in wanted:
        if kind == IMAGE:
            yield kind, image, CONTENT_TYPES[format_]
        elif kind == COCO:
            yield kind, boxes, CONTENT_TYPES[kind]
        else:
            names = {f"image.{settings.extension(IMAGE)}": image, "coco.json": boxes}
            yield kind, _zipped(names), CONTENT_TYPES[kind]


def _zipped(contents: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
