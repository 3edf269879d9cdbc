"""`make bench-transformer`: decoding by format and size, against Pillow alone and against the naive way, one core.

All of it in one run, the three ways of one file after each other, each in a process of its own: so the peak of memory
is that way's alone. Rewrites the table between the markers in benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report import machine, spread, write_section

from whimbrel.core.package import Preset
from whimbrel.transformers.decode import Limits, decode

ROUNDS = 3
SECONDS = 0.3  # that one process decodes for, at least 3 images
PRESET = Preset(height=224, width=224, resize="crop", resize_size=232)  # torchvision's, of a ResNet
BEGIN, END = "<!-- transformer: written by `make bench-transformer` -->", "<!-- /transformer -->"

# name: (width, height, Pillow's format, mode, options). A photograph, repeated until it is as large.
Kind = tuple[int, int, str, str, dict[str, Any]]
FILES: dict[str, Kind] = {
    "JPEG, 0.3 megapixels": (640, 480, "JPEG", "RGB", {"quality": 90}),
    "JPEG, 2 megapixels": (1600, 1200, "JPEG", "RGB", {"quality": 90}),
    "JPEG, 12 megapixels": (4000, 3000, "JPEG", "RGB", {"quality": 90}),
    "progressive JPEG, 12 megapixels": (4000, 3000, "JPEG", "RGB", {"quality": 90, "progressive": True}),
    "PNG, 2 megapixels": (1600, 1200, "PNG", "RGB", {}),
    "PNG with alpha, 12 megapixels": (4000, 3000, "PNG", "RGBA", {"compress_level": 1}),
    "WebP, 12 megapixels": (4000, 3000, "WEBP", "RGB", {"method": 0}),
    "GIF, 2 megapixels": (1600, 1200, "GIF", "P", {}),
    "BMP, 12 megapixels": (4000, 3000, "BMP", "RGB", {}),
    "TIFF (LZW), 12 megapixels": (4000, 3000, "TIFF", "RGB", {"compression": "tiff_lzw"}),
}
LIMITS = Limits(max_bytes=2**30, max_pixels=10**9)


@dataclass(frozen=True)
class Figures:
    rates: dict[str, list[float]]  # images/s by way, one a round
    memory: dict[str, float]  # MiB by way, the most of all rounds
    size: int  # bytes of the file


def ours(content: bytes) -> Any:
    return decode(content, PRESET, LIMITS)


def pillow(content: bytes) -> Any:
    """What Pillow's own documentation advises: the scale that JPEG offers, then the same resizing."""
    image = Image.open(BytesIO(content))
    scale = 232 / min(image.size)
    image.draft("RGB", (int(image.width * scale), int(image.height * scale)))
    return _cropped(image)


def naive(content: bytes) -> Any:
    """All pixels, then the resizing."""
    return _cropped(Image.open(BytesIO(content)))


def _cropped(image: Image.Image) -> Any:
    rgb = image.convert("RGB")
    scale = 232 / min(rgb.size)
    small = rgb.resize((int(rgb.width * scale), int(rgb.height * scale)), Image.Resampling.BILINEAR)
    left, top = (small.width - 224) // 2, (small.height - 224) // 2
    return np.asarray(small.crop((left, top, left + 224, top + 224)))


WAYS: dict[str, Callable[[bytes], Any]] = {"ours": ours, "pillow": pillow, "naive": naive}


def measure_one(way: str, path: Path) -> dict[str, float]:
    """In a process of its own: images/s (median), and how far the first image moved the peak of memory, in MiB."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    content, run = path.read_bytes(), WAYS[way]
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):  # imports the decoders
        small = BytesIO()
        Image.new("RGB", (300, 300)).save(small, format_)
        run(small.getvalue())
    before = _peak_mib()
    run(content)
    memory = _peak_mib() - before
    seconds, deadline = list[float](), time.perf_counter() + SECONDS
    while len(seconds) < 3 or time.perf_counter() < deadline:
        begun = time.perf_counter()
        run(content)
        seconds.append(time.perf_counter() - begun)
    return {"rate": 1 / statistics.median(seconds), "memory": memory}


def _peak_mib() -> float:
    """Of this program alone: Linux's ru_maxrss is that of the process that started it, where that was more."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def measure() -> dict[str, Figures]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / str(index) for index, name in enumerate(FILES)}
        for name, path in paths.items():
            _write(path, FILES[name])
        return {name: _measure_file(name, path) for name, path in paths.items()}


def _write(path: Path, kind: Kind) -> None:
    from sklearn.datasets import load_sample_image

    width, height, format_, mode, options = kind
    photo = load_sample_image("china.jpg")
    across, down = -(-width // photo.shape[1]), -(-height // photo.shape[0])
    image = Image.fromarray(np.tile(photo, (down, across, 1))[:height, :width].copy())
    if mode == "RGBA":
        image.putalpha(image.getchannel("G"))
    image.convert(mode).save(path, format_, **options)


def _measure_file(name: str, path: Path) -> Figures:
    print(name, file=sys.stderr)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    for _ in range(ROUNDS):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, way, str(path)], capture_output=True, check=True)
            seen = json.loads(done.stdout)
            rates[way].append(seen["rate"])
            memory[way] = max(memory[way], seen["memory"])
    return Figures(rates, memory, path.stat().st_size)


def report(found: dict[str, Figures]) -> str:
    lines = [
        f"{machine('pillow')} To 224 x 224 (shorter side to 232, then the centre), one core; {ROUNDS} rounds,"
        " median (least to most).",
        "",
        "| File | MiB | images/s, whimbrel | Pillow alone | naive | whimbrel / naive | whimbrel / Pillow "
        "| MiB held, whimbrel | Pillow | naive |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, figures) for name, figures in found.items()),
    ]
    return "\n".join(lines)


def _row(name: str, figures: Figures) -> str:
    rates, memory = figures.rates, figures.memory
    ratios = [
        spread([mine / theirs for mine, theirs in zip(rates["ours"], rates[way], strict=True)], 2)
        for way in ("naive", "pillow")
    ]
    cells = [
        *(name, f"{figures.size / 2**20:.1f}"),
        *(spread(rates[way], 1) for way in WAYS),
        *ratios,
        *(f"{memory[way]:.0f}" for way in WAYS),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure_one(sys.argv[1], Path(sys.argv[2]))))
        return
    text = report(measure())
    write_section(BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
