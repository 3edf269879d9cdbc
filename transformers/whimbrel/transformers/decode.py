"""Untrusted bytes to an RGB array by a preset: in two steps, so that memory can be granted between them.

`open_image` takes the file apart, checks every limit and says what decoding will hold in memory; `prepare` decodes.
Both block: they belong on a thread (`whimbrel.transformers.decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whimbrel.core.errors import PayloadTooLarge, UndecodableImage, UnsupportedImage
from whimbrel.core.package import Preset
from whimbrel.transformers.colours import to_rgb
from whimbrel.transformers.containers.contents import Contents
from whimbrel.transformers.containers.polyglot import second_format
from whimbrel.transformers.formats import DECODABLE, FORMATS, image_format
from whimbrel.transformers.placement import Placement, placement_of
from whimbrel.transformers.resize import SIDES_SWAPPED, is_turned_first, resize, scaled_size, upright

# `open_image` refuses by our own limit, where Pillow's would warn first.
Image.MAX_IMAGE_PIXELS = None

# What Pillow stores of one pixel, by mode; 4 for all others.
_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_RGB_BYTES = 4
_LEAST_BYTES = 2 * 1024 * 1024  # tables, rows and strips of any decoding, and what the allocator rounds up


@dataclass(frozen=True, slots=True)
class Limits:
    """What is decoded at all, and what transparent parts are laid over."""

    formats: tuple[str, ...] = DECODABLE
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image that was not decoded yet. `memory` is how many bytes its decoding holds at most; `placement`, where its
    picture will lie in what is made of it."""

    image: Image.Image
    format: str
    orientation: int
    inverted: bool
    memory: int
    placement: Placement


def decode(content: bytes, preset: Preset | None, limits: Limits) -> NDArray[np.uint8]:
    """Both steps. (height, width, 3) uint8 RGB; without a preset in its own size. Raises as the two do."""
    return prepare(open_image(content, preset, limits), preset, limits)


def open_image(content: bytes, preset: Preset | None, limits: Limits) -> OpenedImage:
    """Take the file apart; choose the smallest scale of a JPEG that `preset` allows, its own without a preset.

    Raises PayloadTooLarge (413), UnsupportedImage (415: empty, of no allowed format, or of another one besides) or
    UndecodableImage (422).
    """
    if len(content) > limits.max_bytes:
        raise PayloadTooLarge(f"expected an image of at most {limits.max_bytes} bytes, seen {len(content)}")
    format_ = image_format(content, limits.formats)
    try:
        contents = FORMATS[format_].read(content)
        other = second_format(content, contents.aside)
    except Exception as error:
        raise _undecodable(format_, error) from None
    if other is not None:
        raise UnsupportedImage(f"expected a {format_} image alone, seen one that is {other} too")
    _check_size(contents, limits)
    try:
        image = Image.open(BytesIO(contents.content), formats=[FORMATS[format_].pillow_name])
        if image.size != (contents.width, contents.height):
            raise ValueError(f"{image.width} x {image.height} or {contents.width} x {contents.height} pixels")
        if format_ == "jpeg" and preset is not None:
            image.draft(None, _least_size(contents, preset))
    except Exception as error:  # Pillow lets out what its parsers meet: struct.error, KeyError, SyntaxError and more
        raise _undecodable(format_, error) from None
    memory = _memory(image, contents, preset) + (0 if contents.content is content else 2 * len(content))
    placement = placement_of((contents.width, contents.height), image.size, contents.orientation, preset)
    return OpenedImage(image, format_, contents.orientation, contents.inverted, memory, placement)


def prepare(opened: OpenedImage, preset: Preset | None, limits: Limits) -> NDArray[np.uint8]:
    """Decode, lay over the background, resize, turn upright: (height, width, 3) uint8 RGB.

    Raises UndecodableImage with the decoder's reason. `opened` cannot be used again.
    """
    with opened.image as image:
        try:
            image.load()
            rgb = to_rgb(image, limits.background, inverted=opened.inverted)
        except MemoryError:
            raise
        except Exception as error:
            raise _undecodable(opened.format, error) from None
    turned = upright(rgb, opened.orientation) if preset is None else resize(rgb, preset, opened.orientation)
    return np.asarray(turned, dtype=np.uint8)


def _undecodable(format_: str, error: Exception) -> UndecodableImage:
    reason = str(error) or type(error).__name__
    return UndecodableImage(f"expected a whole {format_} image, seen a broken one: {reason[:200]}")


def _check_size(contents: Contents, limits: Limits) -> None:
    width, height = contents.width, contents.height
    if not width or not height:
        raise UndecodableImage(f"expected an image of at least one pixel, seen {width} x {height}")
    if width * height > limits.max_pixels:
        raise UndecodableImage(
            f"expected an image of at most {limits.max_pixels} pixels, seen {width} x {height} = {width * height}"
        )


def _least_size(contents: Contents, preset: Preset) -> tuple[int, int]:
    """The smallest size that the picture may be decoded at, before it is turned upright."""
    if contents.orientation not in SIDES_SWAPPED:
        return scaled_size((contents.width, contents.height), preset)
    width, height = scaled_size((contents.height, contents.width), preset)
    return height, width


def _memory(image: Image.Image, contents: Contents, preset: Preset | None) -> int:
    """The decoder's workspace, the picture, its copies in RGB and upright, and what resizing makes of it."""
    pixels = image.width * image.height
    if preset is None:  # in RGB, upright and as an array
        return _LEAST_BYTES + contents.workspace + pixels * (_BYTES_A_PIXEL.get(image.mode, 4) + 3 * _RGB_BYTES)
    copies = (image.mode != "RGB" or image.has_transparency_data) + is_turned_first(
        image.size, preset, contents.orientation
    )
    across, down = scaled_size(image.size, preset)
    resized = max(across, down) * max(image.size) + 2 * max(across * down, preset.width * preset.height)
    picture = pixels * (_BYTES_A_PIXEL.get(image.mode, 4) + copies * _RGB_BYTES)
    return _LEAST_BYTES + contents.workspace + picture + _RGB_BYTES * resized
