"""That the memory which is granted to a decoding is what it takes: measured, for every format and mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testbed.processes import environment

SUPPORT = Path(__file__).parents[1] / "support"
MEBI = 1024 * 1024
WIDTH, HEIGHT = 2000, 1600

FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg cmyk": ("CMYK", "JPEG", {}),
    "jpeg progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "png": ("RGB", "PNG", {"compress_level": 1}),
    "png with alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "png of 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "webp": ("RGB", "WEBP", {"method": 0}),
    "webp with alpha": ("RGBA", "WEBP", {"method": 0}),
    "webp lossless": ("RGBA", "WEBP", {"method": 0, "lossless": True, "quality": 0}),
    "gif": ("P", "GIF", {}),
    "bmp": ("RGB", "BMP", {}),
    "tiff cmyk": ("CMYK", "TIFF", {}),
    "tiff of 16 bits": ("I;16", "TIFF", {}),
    "tiff in one strip": ("RGBA", "TIFF", {"compression": "tiff_lzw", "strip_size": 2**30}),
    "tiff jpeg in one strip": ("RGB", "TIFF", {"compression": "jpeg", "strip_size": 2**30}),
}


def write(folder: Path) -> list[Path]:
    noise = np.random.default_rng(7).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    paths = []
    for name, (mode, format_, options) in FILES.items():
        grey = np.asarray(rgba.convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else rgba.convert("RGB").convert(mode)
        if mode == "RGBA":
            image.putalpha(rgba.getchannel("A"))
        paths.append(folder / name)
        image.save(paths[-1], format_, **options)
    return paths


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux's /proc")
def test_no_decoding_takes_more_than_it_was_granted_nor_much_less(tmp_path: Path) -> None:
    paths = write(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "small", "PNG")
    command = [sys.executable, "-m", "testbed.decode_memory", "1000", str(tmp_path / "small"), *map(str, paths)]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=str(SUPPORT)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = {line["file"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(seen) == set(FILES)
    too_much = {name: line for name, line in seen.items() if line["peak"] > line["granted"]}
    too_careful = {name: line for name, line in seen.items() if line["granted"] > 2.5 * line["peak"] + 4 * MEBI}
    assert not too_much
    assert not too_careful
