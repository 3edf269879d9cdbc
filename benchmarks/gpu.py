"""`make bench-gpu`: on an NVIDIA GPU, ours against a bare loop with the same copies, and from JPEG on the device.

From uint8 tensors in host memory: the bare loop copies each batch out of pinned memory on a stream of its own while the
one before computes; ours gets single images and forms the batches itself (to reach: 0.9 of the bare loop). From JPEG
bytes: decoded by nvJPEG on the device, then computed, with nothing of ours around. Prints its tables for the
README with the device named; has not run yet, for want of a GPU.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predictor.measured import IMAGE, Setting, conditions, setting_in
from report import spread

from whimbrel.core.package import Package
from whimbrel.predictors import torch_network
from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.batcher import batching, device_threads
from whimbrel.predictors.precision import Asked, Precision
from whimbrel.predictors.torch_network import TorchNetwork

BATCH, WAITING = 64, 512
DTYPE: Precision = "bfloat16"


def main() -> int:
    if not torch.cuda.is_available():
        print("bench-gpu: no GPU here, so nothing was measured")
        return 0
    device = torch.device("cuda:0")
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_in(Path(folder))
        print(conditions(setting, f"{DTYPE}, batches of up to {BATCH}"))
        print("\n| Network | from | images/s, ours | bare loop | ours / bare |\n|---|---|---|---|---|")
        for name, package in setting.packages.items():
            for row in rows(name, package, setting, device):
                print(row, flush=True)
    return 0


def rows(name: str, package: Package, setting: Setting, device: torch.device) -> list[str]:
    network = torch_network.load(package, device, asked=Asked(DTYPE), cuda_graphs=True)
    ours, bare, jpeg = list[float](), list[float](), list[float]()
    for _ in range(setting.rounds):
        ours.append(asyncio.run(ours_from_tensors(network, setting.seconds)))
        bare.append(repeated(bare_from_tensors(network, device), setting.seconds))
        jpeg.append(repeated(bare_from_jpeg(network, device), setting.seconds))
    network.close()
    ratio = [each / other for each, other in zip(ours, bare, strict=True)]
    return [
        f"| {name} | uint8 tensors in host memory | {spread(ours)} | {spread(bare)} | {spread(ratio, 2)} |",
        f"| {name} | JPEG bytes, decoded by nvJPEG | | {spread(jpeg)} | |",
    ]


async def ours_from_tensors(network: TorchNetwork, seconds: float) -> float:
    """Images a second where WAITING clients ask for one image after another."""
    answered, end = 0, time.perf_counter() + seconds

    with device_threads() as threads:
        limits = BatchLimits(BATCH, 0.0, 10_000)
        async with batching(network, limits, threads, model_name="m", version="1") as batcher:

            async def client() -> None:
                nonlocal answered
                while time.perf_counter() < end:
                    await batcher.infer(IMAGE, 5)
                    answered += 1

            await asyncio.gather(*(client() for _ in range(WAITING)))
    return answered / (time.perf_counter() - end + seconds)


def bare_from_tensors(network: TorchNetwork, device: torch.device) -> Callable[[], int]:
    """One batch, computed while the next one is copied."""
    copies: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    host = torch.from_numpy(np.repeat(IMAGE, BATCH, axis=0)).pin_memory()

    def copied() -> torch.Tensor:
        with torch.cuda.stream(copies):
            return host.to(device, non_blocking=True)

    following = copied()

    def batch() -> int:
        nonlocal following
        torch.cuda.current_stream(device).wait_stream(copies)
        images = following
        images.record_stream(torch.cuda.current_stream(device))
        following = copied()
        network.infer_on_device(images, 5)
        return BATCH

    return batch


def bare_from_jpeg(network: TorchNetwork, device: torch.device) -> Callable[[], int]:
    from PIL import Image
    from torchvision.io import decode_jpeg

    content = io.BytesIO()
    Image.fromarray(IMAGE[0]).save(content, "JPEG", quality=90)
    encoded = [torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)] * BATCH

    def batch() -> int:
        images = torch.stack(decode_jpeg(encoded, device=device)).permute(0, 2, 3, 1)
        network.infer_on_device(images, 5)
        return BATCH

    return batch


def repeated(batch: Callable[[], int], seconds: float) -> float:
    """Images a second, after one batch that does not count."""
    batch()
    torch.cuda.synchronize()
    images, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        images += batch()
    return images / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
