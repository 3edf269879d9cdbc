"""`make bench-predictor`: the predictor over REST against a bare loop of the same network; swaps under load; the start.

The bare loop computes batches as large as the concurrency, one after another, with nothing around: what the device
gives. Both normalise the same uint8 images and rank the scores, in turn, in one run. Rewrites the tables between the
markers in benchmarks/README.md, and predictor.png.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import predictor_plot
import torch
from predictor_process import IMAGE, Answered, asked, load, predictor
from report import machine, spread, write_section

from whimbrel.core.package import Package
from whimbrel.mlflow.packages import import_torchvision
from whimbrel.predictors import torch_network
from whimbrel.predictors.batch_policy import BatchLimits
from whimbrel.predictors.batcher import batching, device_threads
from whimbrel.predictors.null_network import NullNetwork
from whimbrel.predictors.torch_network import TorchNetwork, choose_device

NETWORKS = ("resnet18", "resnet50")
CONCURRENCIES = (1, 8, 32)
WAITING = (10, 100, 1000)
ROUNDS, SECONDS = 3, float(os.environ.get("BENCH_SECONDS", "3"))
SWAPS, SWAP_CLIENTS, SECONDS_BEFORE_SWAPS, SECONDS_BETWEEN = 3, 8, 6.0, 2.0
BEGIN, END = "<!-- predictor: written by `make bench-predictor` -->", "<!-- /predictor -->"

REQUIRED = """
import sys
from pathlib import Path
import numpy as np
from whimbrel.core import kserve_sdk
from whimbrel.core.package import Package, read_manifest
from whimbrel.predictors import torch_network
folder = Path(sys.argv[1])
network = torch_network.load(Package(folder, *read_manifest(folder)), torch_network.choose_device("auto"))
preset = network.description.preset
network.infer(np.zeros((1, preset.height, preset.width, 3), np.uint8), 5)
"""


@dataclass
class Measured:
    """Of one network. `rates`: images/s, ours and bare, by concurrency; `over`: ms over the bare call at 1."""

    rates: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    over: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    required: list[float] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)


def bare(network: TorchNetwork, size: int) -> tuple[float, float]:
    """Images a second in batches of `size`, and the median seconds of one batch."""
    images, times = np.repeat(IMAGE, size, axis=0), list[float]()
    network.infer(images, 5)
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < SECONDS:
        network.infer(images, 5)
        times.append(time.perf_counter() - now)
    return size * len(times) / (time.perf_counter() - started), statistics.median(times)


def measure_throughput(measured: Measured, network: TorchNetwork, port: int) -> None:
    for clients in CONCURRENCIES:
        ours, alone = measured.rates.setdefault(clients, ([], []))
        for _ in range(ROUNDS):
            rate, seconds = bare(network, clients)
            answers = asked(port, clients, SECONDS)
            assert all(answer.status == 200 for answer in answers)
            alone.append(rate)
            ours.append(_rate_of(answers))
            if clients == 1:
                measured.over.append(1000 * (statistics.median(answer.seconds for answer in answers) - seconds))


def _rate_of(answers: list[Answered]) -> float:
    """Answers a second, from the first request to the last answer."""
    return len(answers) / (max(each.at + each.seconds for each in answers) - min(each.at for each in answers))


def measure_swaps(measured: Measured, package: Package, port: int) -> None:
    def swap() -> None:
        for number in range(SWAPS):
            began = time.perf_counter()
            load(port, package, str(number + 1))
            measured.spans.append((began, time.perf_counter()))
            time.sleep(SECONDS_BETWEEN)

    measured.answers = asked(port, SWAP_CLIENTS, SECONDS_BEFORE_SWAPS, swap)


def measure_start(measured: Measured, package: Package) -> None:
    """In turn: a predictor to its first answer, and only what it cannot do without."""
    for _ in range(ROUNDS):
        with predictor(package) as served:
            measured.starts.append(served.seconds_to_first_answer)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", REQUIRED, str(package.folder)], check=True)
        measured.required.append(time.perf_counter() - began)


async def microseconds_a_request(waiting: int) -> float:
    """Of the process, where so many requests wait at once, in batches of 8 of a network that takes no time."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    with device_threads() as threads:
        limits = BatchLimits(8, 0.0, 10_000)
        async with batching(NullNetwork(10), limits, threads, model_name="m", version="1") as batcher:
            times = []
            for _ in range(max(3, 3000 // waiting)):
                began = time.process_time()
                await asyncio.gather(*(batcher.infer(image, 1) for _ in range(waiting)))
                times.append(time.process_time() - began)
    return 1_000_000 * statistics.median(times) / waiting


def throughput_rows(name: str, measured: Measured) -> list[str]:
    rows = []
    for clients, (ours, alone) in measured.rates.items():
        ratio = [our / other for our, other in zip(ours, alone, strict=True)]
        added = spread(measured.over, 1) if clients == 1 else ""
        rows.append(f"| {name} | {clients} | {spread(ours, 1)} | {spread(alone, 1)} | {spread(ratio, 2)} | {added} |")
    return rows


def swap_row(name: str, measured: Measured) -> str:
    first = measured.spans[0][0]
    before = [each.seconds for each in measured.answers if each.at + each.seconds < first]
    during = [
        each.seconds
        for each in measured.answers
        if any(each.at < end and each.at + each.seconds >= begin for begin, end in measured.spans)
    ]
    failed = sum(answer.status != 200 for answer in measured.answers)
    p99 = [float(np.percentile(seconds, 99)) for seconds in (before, during)]
    seconds = spread([end - begin for begin, end in measured.spans], 2)
    return (
        f"| {name} | {len(measured.answers)} | {failed} | {seconds} | {1000 * p99[0]:.0f} | {1000 * p99[1]:.0f} | "
        f"{p99[1] / p99[0]:.2f} |"
    )


def start_row(name: str, measured: Measured) -> str:
    ratio = [ours / theirs for ours, theirs in zip(measured.starts, measured.required, strict=True)]
    return f"| {name} | {spread(measured.starts, 2)} | {spread(measured.required, 2)} | {spread(ratio, 2)} |"


def measured_of(name: str, folder: Path) -> Measured:
    package, measured = import_torchvision(name, "none", folder / name), Measured()
    network = torch_network.load(package, choose_device("auto"))
    with predictor(package) as served:
        measure_throughput(measured, network, served.port)
        measure_swaps(measured, package, served.port)
    network.close()
    measure_start(measured, package)
    return measured


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        all_measured = {name: measured_of(name, Path(folder)) for name in NETWORKS}
    queueing = [asyncio.run(microseconds_a_request(waiting)) for waiting in WAITING]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [
        f"{machine('torch', 'torchvision', 'kserve')[:-1]}; {device}; "
        f"load average {os.getloadavg()[1]:.1f} at the end. "
        "float32, uint8 224 x 224 in, REST with "
        f"binary tensors, clients on the same machine; {ROUNDS} rounds of {SECONDS:g} s, median (least to most).",
        "",
        "| Network | Concurrency | images/s, whimbrel | bare loop | whimbrel / bare | ms over the bare call |",
        "|---|---|---|---|---|---|",
        *(row for name, measured in all_measured.items() for row in throughput_rows(name, measured)),
        "",
        f"| Network | Requests | Failed | {SWAPS} swaps, s each | p99 before, ms | during, ms | during / before |",
        "|---|---|---|---|---|---|---|",
        *(swap_row(name, measured) for name, measured in all_measured.items()),
        "",
        "| Network | Process start to first answer, s | imports, weights and one forward alone, s | ratio |",
        "|---|---|---|---|",
        *(start_row(name, measured) for name, measured in all_measured.items()),
        "",
        f"| Requests that wait at once | {' | '.join(map(str, WAITING))} |",
        f"|---|{'---|' * len(WAITING)}",
        f"| µs of queueing and batching a request | {' | '.join(f'{each:.0f}' for each in queueing)} |",
        "",
        f"![Throughput by concurrency, and the latency of requests around the swaps]({predictor_plot.PICTURE.name})",
    ]
    print(*lines[2:], sep="\n")
    predictor_plot.draw(
        {name: measured.rates for name, measured in all_measured.items()},
        {name: _swaps_of(measured) for name, measured in all_measured.items()},
    )
    write_section(BEGIN, END, "\n".join(lines))


def _swaps_of(measured: Measured) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds from the first request on, and ms."""
    zero = min(each.at for each in measured.answers)
    answers = [(each.at - zero, 1000 * each.seconds) for each in measured.answers]
    return answers, [(begin - zero, end - zero) for begin, end in measured.spans]


if __name__ == "__main__":
    main()
