"""Every mode that Pillow decodes to becomes RGB, never with a third copy of the picture in memory."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

_STRIP_PIXELS = 128 * 1024  # what takes more than one step is done a strip at a time


def to_rgb(image: Image.Image, background: tuple[int, int, int], *, inverted: bool = False) -> Image.Image:
    """`image` itself where it is RGB already. `inverted`: a CMYK picture whose samples are the wrong way round.

    Transparent parts show `background`; 16 bits are scaled to 8; CMYK is taken as it is, without any profile.
    """
    sixteen_bits, transparent = image.mode.startswith("I"), image.has_transparency_data
    if not (sixteen_bits or transparent or inverted):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgb = Image.new("RGB", image.size, background)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        if sixteen_bits:
            rgb.paste(_eight_bits(strip), (0, top))
        elif transparent:
            straight = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            rgb.paste(straight.convert("RGB"), (0, top), mask=straight.getchannel("A"))
        else:
            rgb.paste(ImageChops.invert(strip).convert("RGB"), (0, top))
    return rgb


def _eight_bits(grey: Image.Image) -> Image.Image:
    """Pillow's own conversion clips where it should scale."""
    samples = np.asarray(grey).astype(np.int64)
    return Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8))
