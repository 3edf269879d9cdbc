"""What all sections measure with: the packages, the image, the bare loop, how long and how often."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from predictor.weights import telling_apart
from report import machine

from whimbrel.core.package import Package
from whimbrel.predictors import torch_network
from whimbrel.predictors.network import Images
from whimbrel.predictors.precision import Asked
from whimbrel.predictors.torch_network import TorchNetwork, choose_device

NETWORKS = ("resnet18", "resnet50")
IMAGE: Images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
_RAMP = np.broadcast_to(np.arange(224, dtype=np.uint8)[None, :, None, None], IMAGE.shape) // np.array(
    [1, 2, 3], np.uint8
)
IMAGES: tuple[Images, ...] = (IMAGE, _RAMP, 255 - _RAMP)  # to tell networks, channels and rows from each other
THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Setting:
    """`seconds`: of one measurement; `rounds`: how often each is taken, in turn with what it is compared with.

    `folder`: for what a section writes, until all of them have ended.
    """

    folder: Path
    packages: dict[str, Package]
    seconds: float
    rounds: int


def setting_in(folder: Path) -> Setting:
    """With packages of all networks, written to `folder`."""
    packages = {name: telling_apart(name, folder) for name in NETWORKS}
    seconds, rounds = float(os.environ.get("BENCH_SECONDS", "3")), int(os.environ.get("BENCH_ROUNDS", "3"))
    return Setting(folder, packages, seconds, rounds)


def bare_network(package: Package) -> TorchNetwork:
    """In float32."""
    return torch_network.load(package, choose_device("auto"), asked=Asked("float32"))


def bare(network: TorchNetwork, size: int, seconds: float) -> tuple[float, float]:
    """Images a second in batches of `size`, back to back with nothing around, and the median seconds of one batch."""
    images, times = np.repeat(IMAGE, size, axis=0), list[float]()
    network.infer(images, 5)
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        network.infer(images, 5)
        times.append(time.perf_counter() - now)
    return size * len(times) / (time.perf_counter() - started), statistics.median(times)


def conditions(setting: Setting, *more: str) -> str:
    """The sentence above each table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = f"{THREADS} torch threads, {instruction_set()}"
    of = f"{setting.rounds} rounds of {setting.seconds:g} s, median (least to most)"
    load = f"load average {os.getloadavg()[1]:.1f} at the end"
    return "; ".join([machine("torch", "torchvision", "kserve")[:-1], device, threads, load, *more, of]) + "."


def instruction_set() -> str:
    """The widest that torch's kernels use here, and the 16-bit floats that the processor computes in hardware."""
    flags = _flags()
    names = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    return f"{torch.backends.cpu.get_cpu_capability()}{' with ' if names else ''}{' and '.join(names)}"


def _flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def each_network(setting: Setting, measure: Callable[[str, Package], list[str]]) -> list[str]:
    """The rows of one network below those of the other."""
    return [row for name, package in setting.packages.items() for row in measure(name, package)]
