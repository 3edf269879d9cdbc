"""Untrusted bytes: what is decoded, to which pixels, and what is refused with which reason."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from testbed.broken_images import adam7, encoded, picture
from whimbrel.core.errors import InputRefused, PayloadTooLarge, UndecodableImage, UnsupportedImage
from whimbrel.core.package import Preset
from whimbrel.transformers.containers.jpeg import MAX_SCANS
from whimbrel.transformers.decode import Limits, decode, open_image

LIMITS = Limits(max_bytes=2_000_000, max_pixels=4_000_000)
EIGHT = Preset(height=8, width=8)


def quadrants(width: int = 64, height: int = 32) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (0, 0, width // 2, height // 2))
    image.paste("lime", (width // 2, 0, width, height // 2))
    image.paste("blue", (0, height // 2, width // 2, height))
    return image


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b"", UnsupportedImage, "seen an empty file"),
        (
            b"this is a text that is named .png\n",
            UnsupportedImage,
            "expected an image as jpeg, png, webp, gif, bmp or tiff, seen text",
        ),
        ("Grüße aus dem Watt ".encode() * 60, UnsupportedImage, "seen text"),
        (bytes(range(256)), UnsupportedImage, "starts with 00 01 02"),
        (encoded(picture(200, 200), "JPEG")[:1000], UndecodableImage, "a whole jpeg image.*truncated"),
        (encoded(picture(200, 200))[:1000], UndecodableImage, "a whole png image.*truncated"),
        (b"\xff\xd8\xff\xe0", UndecodableImage, "a whole jpeg image"),
        (b"\x89PNG\r\n\x1a\n", UndecodableImage, "a whole png image"),
        (b"\x89PNG\r\n\x1a\n<html>", UndecodableImage, "a whole png image"),
        (b"\xff\xd8\xff" + b"\x00" * 3_000_000, PayloadTooLarge, "at most 2000000 bytes, seen 3000003"),
    ],
)
def test_refuses_with_the_reason(content: bytes, error: type[InputRefused], reason: str) -> None:
    with pytest.raises(InputRefused, match=reason) as refused:
        decode(content, EIGHT, LIMITS)
    assert type(refused.value) is error


def test_refuses_a_decompression_bomb_by_its_header_alone() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UndecodableImage, match="at most 4000000 pixels, seen 60000 x 60000 = 3600000000"):
        open_image(bomb, EIGHT, LIMITS)


def test_refuses_a_jpeg_of_endless_scans() -> None:
    content = encoded(picture(16, 16), "JPEG")
    with pytest.raises(UndecodableImage, match=f"more than {MAX_SCANS} scans"):
        open_image(content[:-2] + b"\xff\xda" * 200 + content[-2:], EIGHT, LIMITS)


def test_a_format_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="expected an image as jpeg, seen png"):
        decode(encoded(picture(8, 8)), EIGHT, Limits(formats=("jpeg",)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    grey = picture(8, 8).convert("L")
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        if mode == "I;16"
        else grey.convert("RGB").convert(mode)
    )
    decoded = decode(encoded(image), EIGHT, LIMITS)
    assert decoded.shape == (8, 8, 3)
    expected = np.asarray(image.convert("RGB") if mode != "I;16" else grey.convert("RGB"))
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_jpeg_mode_becomes_rgb(mode: str) -> None:
    image = picture(64, 64).convert(mode)
    decoded = decode(encoded(image, "JPEG", quality=95), Preset(height=64, width=64), LIMITS)
    assert np.abs(decoded.astype(int) - np.asarray(image.convert("RGB")).astype(int)).mean() < 4


def test_an_interlaced_png_is_the_same_picture() -> None:
    grey = picture(37, 21).convert("L")
    preset = Preset(height=21, width=37)
    assert np.array_equal(decode(adam7(grey), preset, LIMITS), decode(encoded(grey), preset, LIMITS))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_every_tiff_mode_becomes_rgb(mode: str, compression: str | None) -> None:
    image = picture(40, 30, mode)
    decoded = decode(encoded(image, "TIFF", compression=compression), Preset(height=30, width=40), LIMITS)
    expected = picture(40, 30, "L").convert("RGB") if mode == "I;16" else image.convert("RGB")
    assert np.abs(decoded.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize(
    ("format_", "mode"),
    [("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "L"), ("GIF", "P"), ("GIF", "1")]
    + [("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
)
def test_every_mode_of_webp_gif_and_bmp_becomes_rgb(format_: str, mode: str) -> None:
    image = picture(40, 30, mode)
    options: Any = {"lossless": True} if format_ == "WEBP" else {}
    decoded = decode(encoded(image, format_, **options), Preset(height=30, width=40), LIMITS)
    assert np.array_equal(decoded, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("format_", "options"), [("WEBP", {"lossless": True}), ("TIFF", {}), ("GIF", {}), ("PNG", {})])
def test_transparency_of_every_format_shows_the_background(format_: str, options: Any) -> None:
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    image.paste((200, 100, 50, 0), (0, 0, 8, 4))
    decoded = decode(encoded(image, format_, **options), EIGHT, Limits(background=(1, 2, 3)))
    assert decoded[0, 0].tolist() == [1, 2, 3]
    assert decoded[7, 7].tolist() == [10, 20, 30]


def test_transparent_parts_show_the_background() -> None:
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    decoded = decode(encoded(image), EIGHT, Limits(background=(1, 2, 3)))
    assert decoded[0, 0].tolist() == [10, 20, 30]
    assert decoded[4, 4].tolist() == [1, 2, 3]


def test_a_transparent_colour_of_a_palette_shows_the_background() -> None:
    image = quadrants(8, 8).quantize(4)
    decoded = decode(encoded(image, transparency=image.getpixel((0, 0))), EIGHT, Limits(background=(1, 2, 3)))
    assert decoded[0, 0].tolist() == [1, 2, 3]
    assert decoded[7, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("orientation", "top_left"),
    [
        (1, "red"),
        (2, "lime"),
        (3, "white"),
        (4, "blue"),
        (5, "red"),
        (6, "blue"),
        (7, "white"),
        (8, "lime"),
        (99, "red"),
    ],
)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_is_turned_upright(format_: str, orientation: int, top_left: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(quadrants(), format_, exif=exif), Preset(height=16, width=16), LIMITS)
    expected = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}[top_left]
    assert np.abs(decoded[3, 3].astype(int) - expected).max() < 16


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices() -> None:
    content = encoded(picture(1600, 800), "JPEG")

    def decoded_size(preset: Preset) -> tuple[int, int]:
        return open_image(content, preset, LIMITS).image.size

    assert decoded_size(Preset(height=100, width=100)) == (200, 100)
    assert decoded_size(Preset(height=100, width=201)) == (400, 200)
    assert decoded_size(Preset(height=100, width=100, resize="crop", resize_size=100)) == (200, 100)
    assert decoded_size(Preset(height=90, width=90, resize="crop", resize_size=101)) == (400, 200)
    assert decoded_size(Preset(height=200, width=200, resize="pad")) == (200, 100)
    assert decoded_size(Preset(height=101, width=201, resize="pad")) == (400, 200)


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
def test_the_smaller_scale_shows_the_same_picture(rule: Any) -> None:
    preset = Preset(height=100, width=100, resize=rule, resize_size=100 if rule == "crop" else None)
    image = picture(1600, 800)
    small = decode(encoded(image, "JPEG", quality=95), preset, LIMITS).astype(int)
    whole = decode(encoded(image), preset, LIMITS).astype(int)
    assert np.abs(small - whole).mean() < 1.5


def test_the_scale_of_a_turned_jpeg_is_that_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(picture(1600, 800), "JPEG", exif=exif)
    assert open_image(content, Preset(height=400, width=100), LIMITS).image.size == (400, 200)
    assert open_image(content, Preset(height=100, width=400), LIMITS).image.size == (800, 400)


def test_pad_keeps_the_proportions_on_black() -> None:
    image = Image.new("RGB", (40, 20), "white")
    decoded = decode(encoded(image), Preset(height=16, width=16, resize="pad"), LIMITS)
    assert decoded[:4].max() == 0
    assert decoded[12:].max() == 0
    assert decoded[4:12].min() == 255


def test_a_narrow_strip_is_cropped_without_scaling_all_of_it() -> None:
    strip = np.zeros((2, 20_000, 3), np.uint8)
    strip[:, 9_999:10_001] = 255  # the centre
    preset = Preset(height=1024, width=1024, resize="crop", resize_size=1024)
    decoded = decode(encoded(Image.fromarray(strip)), preset, LIMITS)
    assert decoded.shape == (1024, 1024, 3)
    assert decoded[512, 512].tolist() == [255, 255, 255]


@st.composite
def presets(draw: st.DrawFn) -> Preset:
    height, width = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    rule = draw(st.sampled_from(["stretch", "crop", "pad"]))
    size = max(height, width) + draw(st.integers(0, 32)) if rule == "crop" else None
    interpolation = draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
    return Preset(height=height, width=width, resize=rule, resize_size=size, interpolation=interpolation)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    mode=st.sampled_from(["L", "RGB"]),
    format_=st.sampled_from(["JPEG", "PNG"]),
    preset=presets(),
)
def test_any_image_becomes_exactly_the_presets_shape(
    width: int, height: int, mode: str, format_: str, preset: Preset
) -> None:
    decoded = decode(encoded(picture(width, height, mode), format_), preset, LIMITS)
    assert decoded.shape == (preset.height, preset.width, 3)
    assert decoded.dtype == np.uint8


@pytest.mark.torch
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (40, 300), (257, 256)])
def test_crop_and_stretch_are_torchvisions(size: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    crop = v2.Compose([v2.Resize(232), v2.CenterCrop(224)])
    cropped = decode(encoded(image), Preset(height=224, width=224, resize="crop", resize_size=232), LIMITS)
    assert np.array_equal(cropped, np.asarray(crop(image)))
    stretched = decode(encoded(image), Preset(height=56, width=48), LIMITS)
    assert np.array_equal(stretched, np.asarray(v2.Resize((56, 48))(image)))
