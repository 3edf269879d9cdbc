"""A calibration set is bounded, of the preset's shape, and part of the package's digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whimbrel.core import calibration
from whimbrel.core.errors import InputRefused, PackageRefused
from whimbrel.core.package import CALIBRATION, MAX_CALIBRATION_BYTES, Package, Preset, parse_manifest, write_manifest

PRESET = Preset(height=4, width=6)
IMAGES = np.random.default_rng(0).integers(0, 256, (calibration.MIN_IMAGES, 4, 6, 3), dtype=np.uint8)


def package(folder: Path, *more: str) -> Package:
    (folder / "model.safetensors").write_bytes(b"weights")
    fields: dict[str, Any] = {
        "task": "classification",
        "architecture": "torchvision:resnet18",
        "preset": PRESET.model_dump(mode="json", exclude_none=True),
        "labels": ["zero"],
    }
    return write_manifest(folder, fields, ["model.safetensors", *more])


def test_a_set_is_read_as_it_was_written_and_belongs_to_the_digest(tmp_path: Path) -> None:
    without = package(tmp_path)
    assert calibration.read(without) is None
    with_set = package(tmp_path, calibration.write(IMAGES, PRESET, tmp_path))
    found = calibration.read(with_set)
    assert found is not None
    assert np.array_equal(found, IMAGES)
    assert with_set.digest != without.digest


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (IMAGES[:-1], "200 to 1024 images, seen 199"),
        (np.zeros((1025, 4, 6, 3), np.uint8), "seen 1025"),
        (IMAGES[:, :, :5], "expected uint8"),
        (IMAGES.astype(np.float32), "expected uint8"),
    ],
)
def test_what_is_no_set_is_neither_written_nor_read(images: Any, named: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(InputRefused, match=named):
        calibration.write(images, PRESET, tmp_path)
    assert not (tmp_path / CALIBRATION).exists()
    save_file({"images": images}, tmp_path / CALIBRATION)
    with pytest.raises(PackageRefused, match=named):
        calibration.read(package(tmp_path, CALIBRATION))


def test_a_file_that_is_no_safetensors_or_has_no_images_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / CALIBRATION).write_bytes(b"no tensors")
    with pytest.raises(PackageRefused, match="safetensors"):
        calibration.read(package(tmp_path, CALIBRATION))
    save_file({"pictures": IMAGES}, tmp_path / CALIBRATION)
    with pytest.raises(PackageRefused, match="no tensor 'images'"):
        calibration.read(package(tmp_path, CALIBRATION))
    for dtype in (b"BF16", b"F8_E4M3"):  # numpy has neither
        size = {b"BF16": 2, b"F8_E4M3": 1}[dtype]
        head = b'{"images":{"dtype":"%s","shape":[1],"data_offsets":[0,%d]}}' % (dtype, size)
        (tmp_path / CALIBRATION).write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))
        with pytest.raises(PackageRefused, match="safetensors"):
            calibration.read(package(tmp_path, CALIBRATION))


def test_a_manifest_with_an_oversized_set_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    made = package(tmp_path, calibration.write(IMAGES, PRESET, tmp_path)).manifest.model_dump_json(by_alias=True)
    size = (tmp_path / CALIBRATION).stat().st_size
    with pytest.raises(PackageRefused, match=f"at most {MAX_CALIBRATION_BYTES} bytes"):
        parse_manifest(made.replace(f'"size":{size}', f'"size":{MAX_CALIBRATION_BYTES + 1}').encode())


def test_a_large_folder_gives_images_from_all_over_it() -> None:
    found = [Path(f"{number:05}.png") for number in range(10_000)]
    chosen = calibration.spread(found, PRESET)
    assert len(chosen) == len(set(chosen)) == calibration.MAX_IMAGES
    assert (chosen[0], chosen[-1]) == (found[0], found[-1])
    large = Preset(height=1024, width=1024)
    assert len(calibration.spread(found, large)) * 1024 * 1024 * 3 <= MAX_CALIBRATION_BYTES
    assert calibration.spread(found[:5], PRESET) == found[:5]
