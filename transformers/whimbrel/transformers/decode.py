"""Untrusted bytes to an RGB array by a preset: in two steps, so that memory can be granted between them.

`open_image` reads the header alone and checks every limit against it; `prepare` decodes. Both block: they belong on a
thread (`whimbrel.transformers.decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whimbrel.core.errors import PayloadTooLarge, UndecodableImage
from whimbrel.core.package import Preset
from whimbrel.transformers.formats import DECODABLE, PILLOW_NAMES, image_format
from whimbrel.transformers.resize import resize, scaled_size

# `open_image` refuses by our own limit, where Pillow's would warn first.
Image.MAX_IMAGE_PIXELS = None

MAX_JPEG_SCANS = 100  # a usual progressive file has 10; each one costs another walk over all pixels

_START_OF_SCAN = b"\xff\xda"  # inside entropy-coded data 0xff is always followed by 0x00 or a restart marker
_ORIENTATION = 0x0112
# EXIF 2.32, tag 0x0112: what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Limits:
    """What is decoded at all, and what transparent parts are laid over."""

    formats: tuple[str, ...] = DECODABLE
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image of which the header alone was read. `pixels` is how many its decoding holds in memory."""

    image: Image.Image
    format: str
    orientation: int
    pixels: int


def decode(content: bytes, preset: Preset, limits: Limits) -> NDArray[np.uint8]:
    """Both steps. (height, width, 3) uint8 RGB. Raises as the two do."""
    return prepare(open_image(content, preset, limits), preset, limits)


def open_image(content: bytes, preset: Preset, limits: Limits) -> OpenedImage:
    """Read the header; choose the smallest scale of a JPEG that `preset` allows.

    Raises PayloadTooLarge (413), UnsupportedImage (415: empty, or of no allowed format) or UndecodableImage (422).
    """
    if len(content) > limits.max_bytes:
        raise PayloadTooLarge(f"expected an image of at most {limits.max_bytes} bytes, seen {len(content)}")
    format_ = image_format(content, limits.formats)
    try:
        image = Image.open(BytesIO(content), formats=[PILLOW_NAMES[format_]])
        width, height = image.size
        orientation = _orientation(image) if format_ == "jpeg" else 1
    except Exception as error:  # Pillow lets out what its parsers meet: struct.error, KeyError, SyntaxError and more
        raise _undecodable(format_, error) from None
    if width * height > limits.max_pixels:
        raise UndecodableImage(
            f"expected an image of at most {limits.max_pixels} pixels, seen {width} x {height} = {width * height}"
        )
    if format_ == "jpeg":
        _check_scans(content)
        image.draft(None, _least_size(image.size, orientation, preset))
    held = width * height if image.info.get("progressive") else image.width * image.height
    return OpenedImage(image, format_, orientation, held + preset.width * preset.height)


def prepare(opened: OpenedImage, preset: Preset, limits: Limits) -> NDArray[np.uint8]:
    """Decode, turn upright, lay over the background, resize: (height, width, 3) uint8 RGB.

    Raises UndecodableImage with the decoder's reason. `opened` cannot be used again.
    """
    with opened.image as image:
        try:
            image.load()
            orientation = opened.orientation if opened.format == "jpeg" else _orientation(image)
            rgb = _rgb(image, limits.background)
        except MemoryError:
            raise
        except Exception as error:
            raise _undecodable(opened.format, error) from None
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.asarray(resize(rgb, preset), dtype=np.uint8)


def _undecodable(format_: str, error: Exception) -> UndecodableImage:
    reason = str(error) or type(error).__name__
    return UndecodableImage(f"expected a whole {format_} image, seen a broken one: {reason[:200]}")


def _check_scans(content: bytes) -> None:
    scans = content.count(_START_OF_SCAN)
    if scans > MAX_JPEG_SCANS:
        raise UndecodableImage(f"expected a JPEG of at most {MAX_JPEG_SCANS} scans, seen {scans}")


def _least_size(size: tuple[int, int], orientation: int, preset: Preset) -> tuple[int, int]:
    """The smallest size that the picture may be decoded at, before it is turned upright."""
    if orientation not in _SIDES_SWAPPED:
        return scaled_size(size, preset)
    width, height = scaled_size((size[1], size[0]), preset)
    return height, width


def _orientation(image: Image.Image) -> int:
    """1 to 8; what is broken or unknown counts as upright: a bad tag is no reason to refuse the picture."""
    try:
        value: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips where it should scale
        samples = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(opaque, rgba).convert("RGB")
    return image.convert("RGB")
