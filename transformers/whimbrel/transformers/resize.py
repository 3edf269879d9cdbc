"""The preset's resize rules: an RGB image of any size becomes exactly (height, width)."""

from __future__ import annotations

from PIL import Image

from whimbrel.core.package import Preset

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# The picture between scaling and cropping may hold this many pixels; a narrower strip is cut out before it is scaled.
_MAX_SCALED_PIXELS = 4096 * 4096


def resize(image: Image.Image, preset: Preset) -> Image.Image:
    """By `preset`'s rule; filters are antialiased, as torchvision's are for PIL images."""
    target = (preset.width, preset.height)
    resample = _FILTERS[preset.interpolation]
    if preset.resize == "stretch":
        return image.resize(target, resample)
    if preset.resize == "pad":
        return _pad(image, target, resample)
    return _crop(image, target, scaled_size(image.size, preset), resample)


def scaled_size(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """(width, height) that an image of `size` is scaled to, before anything is cut off or added."""
    width, height = size
    if preset.resize == "stretch":
        return preset.width, preset.height
    if preset.resize == "pad":
        scale = min(preset.width / width, preset.height / height)
        return (
            min(preset.width, max(1, round(width * scale))),
            min(preset.height, max(1, round(height * scale))),
        )
    assert preset.resize_size is not None  # noqa: S101  (Preset checks it)
    # torchvision's Resize rounds the longer side down.
    if width <= height:
        return preset.resize_size, preset.resize_size * height // width
    return preset.resize_size * width // height, preset.resize_size


def _crop(
    image: Image.Image, target: tuple[int, int], scaled: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    left, top = (round((scaled[side] - target[side]) / 2.0) for side in (0, 1))  # as torchvision's CenterCrop
    if scaled[0] * scaled[1] <= _MAX_SCALED_PIXELS:
        return image.resize(scaled, resample).crop((left, top, left + target[0], top + target[1]))
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (
        left * across,
        top * down,
        min(image.width, (left + target[0]) * across),
        min(image.height, (top + target[1]) * down),
    )
    return image.resize(target, resample, box=box)


def _pad(image: Image.Image, target: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    scaled = image.resize(scaled_size(image.size, Preset(width=target[0], height=target[1], resize="pad")), resample)
    padded = Image.new("RGB", target)
    padded.paste(scaled, ((target[0] - scaled.width) // 2, (target[1] - scaled.height) // 2))
    return padded
