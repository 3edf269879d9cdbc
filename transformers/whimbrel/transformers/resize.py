"""The preset's resize rules: an RGB image of any size and orientation becomes exactly (height, width), upright."""

from __future__ import annotations

from PIL import Image

from whimbrel.core.package import Preset

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
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
SIDES_SWAPPED = frozenset({5, 6, 7, 8})

# The picture between scaling and cropping may hold this many pixels; a narrower strip is cut out before it is scaled.
_MAX_SCALED_PIXELS = 4096 * 4096


def resize(image: Image.Image, preset: Preset, orientation: int = 1) -> Image.Image:
    """By `preset`'s rule; filters are antialiased, as torchvision's are for PIL images.

    The picture is turned once it is small: a large one would be held twice.
    """
    target = (preset.width, preset.height)
    resample = _FILTERS[preset.interpolation]
    if is_turned_first(image.size, preset, orientation):
        image, orientation = image.transpose(_UPRIGHT[orientation]), 1
    swapped = orientation in SIDES_SWAPPED
    upright = (image.height, image.width) if swapped else image.size
    scaled, at = scaled_size(upright, preset), corner(upright, preset)
    if preset.resize == "crop" and _is_narrow(scaled):
        return _cut_out(image, target, scaled, at, resample)
    small = image.resize((scaled[1], scaled[0]) if swapped else scaled, resample)
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    if preset.resize == "stretch":
        return small
    return _pad(small, target, at) if preset.resize == "pad" else _crop(small, target, at)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """In its own size."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def scaled_size(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """(width, height) that an upright image of `size` is scaled to, before anything is cut off or added."""
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


def corner(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """Left and top of that scaled image in (height, width): below 0 where something is cut off."""
    scaled, target = scaled_size(size, preset), (preset.width, preset.height)
    if preset.resize == "pad":
        return (target[0] - scaled[0]) // 2, (target[1] - scaled[1]) // 2
    left, top = (round((scaled[side] - target[side]) / 2.0) for side in (0, 1))  # as torchvision's CenterCrop
    return -left, -top


def is_turned_first(size: tuple[int, int], preset: Preset, orientation: int) -> bool:
    """Whether a stored picture of `size` is turned upright before it is scaled: one that would not become small."""
    if orientation not in _UPRIGHT or preset.resize != "crop":
        return False
    return _is_narrow(scaled_size((size[1], size[0]) if orientation in SIDES_SWAPPED else size, preset))


def _is_narrow(scaled: tuple[int, int]) -> bool:
    return scaled[0] * scaled[1] > _MAX_SCALED_PIXELS


def _crop(scaled: Image.Image, target: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    return scaled.crop((-at[0], -at[1], target[0] - at[0], target[1] - at[1]))


def _cut_out(
    image: Image.Image,
    target: tuple[int, int],
    scaled: tuple[int, int],
    at: tuple[int, int],
    resample: Image.Resampling,
) -> Image.Image:
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (
        -at[0] * across,
        -at[1] * down,
        min(image.width, (target[0] - at[0]) * across),
        min(image.height, (target[1] - at[1]) * down),
    )
    return image.resize(target, resample, box=box)


def _pad(scaled: Image.Image, target: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    padded = Image.new("RGB", target)
    padded.paste(scaled, at)
    return padded
