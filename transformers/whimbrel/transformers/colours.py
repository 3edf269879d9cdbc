"""Every mode that Pillow decodes to becomes RGB, a strip at a time, so that no third copy of a picture is held."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

_STRIP_PIXELS = 128 * 1024


def to_rgb(image: Image.Image, background: tuple[int, int, int], *, inverted: bool = False) -> Image.Image:
    """`image` itself where it is RGB already. `inverted`: a CMYK picture whose samples are the wrong way round.

    Transparent parts show `background`; 16 bits are scaled to 8; CMYK is taken as it is, without any profile.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        rgb.paste(_strip(ImageChops.invert(strip) if inverted else strip, background), (0, top))
    return rgb


def _strip(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips where it should scale
        samples = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        opaque = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(opaque, straight.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
