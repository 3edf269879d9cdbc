"""What an image file is taken apart into: attacks by way of metadata end here, and so do files of two formats."""

from __future__ import annotations

import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testbed.broken_images import encoded, picture, whole_images
from whimbrel.core.errors import UndecodableImage, UnsupportedImage
from whimbrel.core.package import Preset
from whimbrel.transformers.containers import gif, jpeg, png, tiff, webp
from whimbrel.transformers.containers.contents import Broken
from whimbrel.transformers.containers.exif import orientation
from whimbrel.transformers.decode import Limits, decode, open_image
from whimbrel.transformers.formats import FORMATS, sniff

LIMITS = Limits(max_bytes=4_000_000, max_pixels=4_000_000)
EIGHT = Preset(height=8, width=8)


WHOLE = whole_images()


def kind(name: str) -> str:
    return name.partition(" ")[0]


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def zipped() -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("index.html", "hello")
    return target.getvalue()


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_goes_on_is_the_same_picture(name: str) -> None:
    """Pillow sees the same in the whole file as in what is left of it, the orientation apart."""
    content = WHOLE[name]
    format_ = FORMATS[kind(name)]
    contents = format_.read(content)
    with Image.open(BytesIO(contents.content)) as left, Image.open(BytesIO(content)) as whole:
        # Pillow turns a TIFF upright by itself.
        expected = whole.transpose(Image.Transpose.ROTATE_90) if name == "tiff" else whole
        assert left.size == expected.size == (contents.width, contents.height)
        assert np.array_equal(np.asarray(left.convert("RGB")), np.asarray(expected.convert("RGB")))
    assert contents.orientation == (6 if name in ("jpeg", "png", "webp", "tiff") else 1)
    assert (b"a comment" in content) == any(b"a comment" in part for part in contents.aside)


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.parametrize(
    ("trailer", "seen"),
    [
        (zipped(), "a ZIP archive"),
        (b"<!DOCTYPE html><p>hello", "HTML"),
        (b"\n<SCRIPT>alert(1)</SCRIPT>", "a script"),
        (b"<?php system($_GET[0]);", "PHP"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
    ],
)
def test_what_is_something_else_too_is_refused(name: str, trailer: bytes, seen: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"expected a {kind(name)} image alone, seen one that is {seen} too"):
        open_image(WHOLE[name] + trailer, EIGHT, LIMITS)


def test_metadata_with_a_script_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="jpeg image alone, seen one that is a script too"):
        decode(encoded(picture(9, 9), "JPEG", comment=b"*/=1;<script>alert(1)</script>"), EIGHT, LIMITS)
    with pytest.raises(UnsupportedImage, match="gif image alone, seen one that is HTML too"):
        decode(encoded(picture(9, 9), "GIF", comment=b"<html>"), EIGHT, LIMITS)


def test_a_pdf_that_shows_as_a_picture_is_refused() -> None:
    content = encoded(picture(9, 9), "JPEG", comment=b"%PDF-1.4")
    with pytest.raises(UnsupportedImage, match="seen one that is a PDF too"):
        decode(content, EIGHT, LIMITS)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_other_data_behind_the_picture_is_not_looked_at(name: str) -> None:
    """Cameras put previews and films there."""
    content = WHOLE[name]
    plain = decode(content, EIGHT, LIMITS)
    assert np.array_equal(decode(content + b"\x00\x00\x00\x18ftypmp42" + b"film" * 999, EIGHT, LIMITS), plain)


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"II+\x00\x08\x00", "BigTIFF"),
        (b"\x00\x00\x00\x20ftypavif", "avif"),
        (b"\x00\x00\x00\x18ftypheic", "heic"),
        (b"\x00\x00\x00\x18ftypmp42", "a video"),
        (zipped(), "zip"),
        (b"%PDF-1.7", "pdf"),
        (b"%!PS-Adobe-3.0 EPSF", "postscript"),
    ],
)
def test_the_refusal_names_what_it_is(content: bytes, seen: str) -> None:
    assert sniff(content) == seen
    with pytest.raises(UnsupportedImage, match=f"expected an image as jpeg, png, webp, gif, bmp or tiff, seen {seen}"):
        open_image(content, EIGHT, LIMITS)


def exif_bomb() -> bytes:
    """A directory of 5000 tags, each of which says that its value is all of the segment."""
    entries = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(1, 5000))
    return b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 4999) + entries


def test_a_jpeg_with_a_bomb_for_exif_is_a_picture_of_one_orientation() -> None:
    content = encoded(picture(64, 64), "JPEG")
    bomb = exif_bomb()
    segment = b"\xff\xe1" + struct.pack(">H", len(bomb) + 2) + bomb
    contents = jpeg.read(content[:2] + segment + content[2:])
    assert contents.content == content
    assert contents.orientation == 1


def test_bytes_between_the_segments_of_a_jpeg_are_left_out() -> None:
    """A decoder in Python goes through them one by one."""
    content = encoded(picture(64, 64), "JPEG")
    assert jpeg.read(content[:2] + b"\xff" * 1_000_000 + content[2:]).content == content


def test_a_png_with_texts_that_unpack_to_gigabytes_loses_them() -> None:
    content = encoded(picture(64, 64))
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"\x00" * 1_000_000))
    profile = chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(b"\x00" * 1_000_000))
    contents = png.read(content[:33] + text * 70 + profile + content[33:-12] + text * 70 + content[-12:])
    assert contents.content == content


def test_an_animated_png_shows_its_default_picture() -> None:
    frames = [picture(16, 16).rotate(turn) for turn in (90, 180)]
    animated = encoded(picture(16, 16), save_all=True, append_images=frames)
    assert np.array_equal(decode(animated, EIGHT, LIMITS), decode(encoded(picture(16, 16)), EIGHT, LIMITS))


@pytest.mark.parametrize("format_", ["GIF", "WEBP"])
def test_an_animation_shows_its_first_frame(format_: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    options: Any = {"save_all": True, "append_images": [second, first] * 20}
    content = encoded(first, format_, **options)
    assert np.abs(decode(content, EIGHT, LIMITS).astype(int) - (255, 0, 0)).max() < 16
    read = gif.read if format_ == "GIF" else webp.read
    assert len(read(content).content) < len(content) / 3


def test_a_gif_whose_frame_is_larger_than_its_screen_counts_by_the_frame() -> None:
    content = bytearray(encoded(picture(16, 16), "GIF"))
    descriptor = content.index(b",\x00\x00\x00\x00\x10\x00\x10\x00")
    content[descriptor + 5 : descriptor + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(UndecodableImage, match="at most 4000000 pixels, seen 60000 x 60000"):
        open_image(bytes(content), EIGHT, LIMITS)


def test_a_webp_canvas_is_looked_at_before_libwebp_makes_it() -> None:
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 2) + b"\xff\xff\x00\xff\xff\x00" + b"VP8L" + struct.pack("<I", 0)
    with pytest.raises(UndecodableImage, match="at most 4000000 pixels, seen 65536 x 65536"):
        open_image(b"RIFF" + struct.pack("<I", len(body)) + body, EIGHT, LIMITS)


def tiff_of(entries: dict[int, tuple[int, int, int]], tail: bytes = b"", directory_at: int = 8) -> bytes:
    """Little-endian; entries are tag: (type, count, value or offset)."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return b"II*\x00" + struct.pack("<I", directory_at) + directory + struct.pack("<I", 8) + tail


GREY = {256: (3, 1, 4), 257: (3, 1, 4), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 278: (3, 1, 4)}
GREY_STRIP = GREY | {273: (4, 1, 200), 279: (4, 1, 16)}
PIXELS = b"\x00" * 200


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (GREY, "expected 1 tiles or strips, seen 0"),
        (GREY_STRIP | {256: (3, 1, 0)}, "tiles of 0 x 4"),
        (GREY_STRIP | {273: (4, 2**30, 0)}, "tag 273 has values up to byte"),
        (GREY_STRIP | {273: (4, 2, 200), 279: (4, 2, 16)}, "expected 1 tiles or strips, seen 2 with 2 sizes"),
        (GREY_STRIP | {279: (4, 1, 5000)}, "its tiles overlap: they have 5000 bytes"),
        (GREY_STRIP | {258: (3, 1, 32)}, "1 samples of 32 bits"),
        (GREY_STRIP | {339: (3, 1, 3)}, "signed or floating point"),
        (GREY_STRIP | {259: (3, 1, 50000)}, "compression 50000; decoded are none, LZW, JPEG, deflate, PackBits"),
        (GREY_STRIP | {259: (3, 1, 6)}, "compression 6"),
        (GREY_STRIP | {262: (3, 1, 8)}, "photometric interpretation 8"),
        (GREY_STRIP | {262: (3, 1, 0), 258: (3, 1, 16)}, "16 bits where white is zero"),
        (GREY_STRIP | {277: (4, 1, 2**31)}, "2147483648 samples"),
        (GREY_STRIP | {256: (5, 1, 8)}, "tag 256 of 1 values of the type 5"),
        (GREY_STRIP | {256: (99, 1, 8)}, "tag 256 of 1 values of the type 99"),
        (
            GREY | {322: (3, 1, 60_000), 323: (3, 1, 60_000), 324: (4, 1, 200), 325: (4, 1, 16)},
            "tiles of 60000 x 60000 in a picture of 4 x 4",
        ),
    ],
)
def test_a_tiff_with_claims_is_refused(entries: dict[int, tuple[int, int, int]], reason: str) -> None:
    with pytest.raises(Broken, match=reason):
        tiff.read(tiff_of(entries, PIXELS))


@pytest.mark.parametrize("tag", [256, 279, 322])
def test_a_tiff_with_a_tag_twice_is_refused(tag: int) -> None:
    """One decoder reads the first of them, another the last: what one has measured, the other does not make."""
    content = tiff_of(GREY_STRIP | {322: (3, 1, 40_000), 323: (3, 1, 40_000)} | {0: (3, 1, 64)}, PIXELS)
    decode(tiff_of(GREY_STRIP, PIXELS), EIGHT, LIMITS)
    with pytest.raises(Broken, match="a directory with a tag twice"):
        tiff.read(content.replace(struct.pack("<HHI", 0, 3, 1), struct.pack("<HHI", tag, 3, 1)))


def test_a_tiff_keeps_no_tag_that_its_pixels_do_not_need() -> None:
    """Not even one that says that it is as long as the file, under every number; nor the directory after, a loop."""
    useless = dict.fromkeys(range(40000, 40500), (7, 250, 8))
    entries = GREY_STRIP | {273: (4, 1, 6300)} | useless
    content = tiff_of(entries, b"\x07" * 1000)
    contents = tiff.read(content)
    with Image.open(BytesIO(contents.content), formats=["TIFF"]) as image:
        assert set(getattr(image, "tag_v2", {})) == set(GREY_STRIP)
        assert getattr(image, "n_frames", 0) == 1
    assert decode(content, EIGHT, LIMITS).tolist() == [[[7, 7, 7]] * 8] * 8


def test_a_bmp_that_is_run_length_encoded_is_refused() -> None:
    content = bytearray(encoded(picture(9, 9).quantize(8), "BMP"))
    content[30] = 1
    with pytest.raises(UndecodableImage, match="run-length encoded BMP is not decoded"):
        decode(bytes(content), EIGHT, LIMITS)


def test_structures_without_end_are_refused() -> None:
    scan_at = encoded(picture(9, 9), "JPEG")
    with pytest.raises(Broken, match="more than 4096 segments"):
        jpeg.read(scan_at[:2] + b"\xff\xfe\x00\x02" * 5000 + scan_at[2:])
    grey = encoded(picture(9, 9).convert("L"))
    with pytest.raises(Broken, match="more than 65536 chunks"):
        png.read(grey[:33] + chunk(b"IDAT", b"") * 70_000 + grey[33:])
    still = encoded(picture(9, 9), "GIF")
    first = still.index(b",\x00\x00\x00\x00")
    with pytest.raises(Broken, match="more than 200000 blocks"):
        gif.read(still[:first] + b"!\xfe" + b"\x01x" * 300_000 + b"\x00" + still[first:])
    picture_chunks = encoded(picture(9, 9), "WEBP")[12:]
    body = b"WEBP" + picture_chunks + b"junk\x00\x00\x00\x00" * 70_000
    with pytest.raises(Broken, match="more than 65536 chunks"):
        webp.read(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("type_", "value", "found"), [(3, 6, 6), (3, 0, 1), (3, 9, 1), (4, 6, 1), (3, 8, 8), (3, 1, 1)]
)
def test_reads_the_orientation_of_either_byte_order(order: str, type_: int, value: int, found: int) -> None:
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    other = struct.pack(order + "HHII", 256, 4, 1, 1)
    entry = struct.pack(order + "HHIHxx", 0x0112, type_, 1, value)
    exif = magic + struct.pack(order + "IH", 8, 2) + other + entry
    assert orientation(exif) == found
    assert orientation(b"Exif\x00\x00" + exif) == found
    assert orientation(exif[:-8]) == 1


@pytest.mark.parametrize(("options", "buffered"), [({}, False), ({"progressive": True}, True)])
def test_the_coefficients_of_a_progressive_jpeg_count(options: Any, buffered: bool) -> None:
    contents = jpeg.read(encoded(picture(1600, 800), "JPEG", subsampling=0, **options))
    assert contents.workspace == (1600 * 800 * 3 * 2 if buffered else 0)


def test_a_cmyk_jpeg_is_inverted_exactly_when_adobe_says_so() -> None:
    ink = Image.new("CMYK", (32, 32), (255, 0, 0, 255))  # stored as 0, 255, 255, 0: magenta and yellow are red
    adobes = encoded(ink, "JPEG", quality=95)
    position = adobes.index(b"\xff\xee")
    plain = adobes[:position] + adobes[position + 16 :]
    assert np.abs(decode(adobes, EIGHT, LIMITS).astype(int) - (0, 0, 0)).max() < 16
    assert np.abs(decode(plain, EIGHT, LIMITS).astype(int) - (255, 0, 0)).max() < 16
