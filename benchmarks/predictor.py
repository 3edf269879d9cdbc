"""`make bench-predictor`: the predictor over REST against a bare loop of the same network; and a swap under load.

The bare loop computes batches as large as the concurrency, one after another, with nothing around: what the device
gives. Both normalise the same uint8 images and rank the scores, in turn, in one run. Rewrites the tables between the
markers in benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from report import machine, spread, write_section

from whimbrel.core.package import Package
from whimbrel.core.settings import environment_name
from whimbrel.mlflow.packages import import_torchvision
from whimbrel.predictors.torch_network import TorchNetwork, choose_device, load

NETWORKS = ("resnet18", "resnet50")
CONCURRENCIES = (1, 8, 32)
ROUNDS, SECONDS, SWAP_SECONDS = 3, float(os.environ.get("BENCH_SECONDS", "4")), 6.0
BEGIN, END = "<!-- predictor: written by `make bench-predictor` -->", "<!-- /predictor -->"
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Answered:
    at: float
    seconds: float
    status: int


@contextmanager
def predictor(package: Package) -> Iterator[str]:
    """The URL of a predictor of the package, ready."""
    port = 18080 + os.getpid() % 10000
    options = {
        "model_name": "m",
        "model_uri": package.folder.as_uri(),
        "model_digest": package.digest,
        "model_version": "first",
        "http_port": str(port),
        "grpc_port": "0",
        "repository_api": "true",
        "allowed_uri_prefixes": package.folder.as_uri(),
        "log_level": "warning",
    }
    environment = os.environ | {environment_name(name): value for name, value in options.items()}
    process = subprocess.Popen([sys.executable, "-m", "whimbrel.predictors"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _ready(url):
            assert process.poll() is None and time.monotonic() < deadline, "the predictor does not get ready"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def bare(network: TorchNetwork, size: int) -> tuple[float, float]:
    """Images a second in batches of `size`, and the median seconds of one batch."""
    images, times = np.repeat(IMAGE, size, axis=0), list[float]()
    network.infer(images, 5)
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < SECONDS:
        network.infer(images, 5)
        times.append(time.perf_counter() - now)
    return size * len(times) / (time.perf_counter() - started), statistics.median(times)


async def served(url: str, clients: int, seconds: float, beside: Callable[[], Any] | None = None) -> list[Answered]:
    """What `clients` saw that send one image after another; `beside` runs a third of the way in, in a thread."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(IMAGE.shape)}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": IMAGE.nbytes}}]}).encode()
    headers, body = {"inference-header-content-length": str(len(head))}, head + IMAGE.tobytes()
    answers: list[Answered] = []
    end = time.perf_counter() + seconds

    async def client(connection: httpx.AsyncClient) -> None:
        while (sent := time.perf_counter()) < end:
            answer = await connection.post(f"{url}/v2/models/m/infer", content=body, headers=headers)
            answers.append(Answered(sent, time.perf_counter() - sent, answer.status_code))

    async def meanwhile() -> None:
        if beside is not None:
            await asyncio.sleep(seconds / 3)
            await asyncio.to_thread(beside)

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=clients)) as connection:
        await asyncio.gather(meanwhile(), *(client(connection) for _ in range(clients)))
    return answers


def rate_of(answers: list[Answered]) -> float:
    """Answers a second, from the first request to the last answer."""
    return len(answers) / (max(each.at + each.seconds for each in answers) - min(each.at for each in answers))


def throughput_rows(name: str, network: TorchNetwork, url: str) -> Iterator[str]:
    for clients in CONCURRENCIES:
        alone, over_rest, over = [], [], []
        for _ in range(ROUNDS):
            rate, seconds = bare(network, clients)
            answers = asyncio.run(served(url, clients, SECONDS))
            assert all(answer.status == 200 for answer in answers)
            alone.append(rate)
            over_rest.append(rate_of(answers))
            over.append(1000 * (statistics.median(answer.seconds for answer in answers) - seconds))
        ratio = [ours / theirs for ours, theirs in zip(over_rest, alone, strict=True)]
        added = spread(over, 1) if clients == 1 else ""
        yield f"| {name} | {clients} | {spread(over_rest, 1)} | {spread(alone, 1)} | {spread(ratio, 2)} | {added} |"


def swap_row(name: str, package: Package, url: str) -> str:
    moments: dict[str, float] = {}

    def swap() -> None:
        parameters = {"version": "second", "uri": package.folder.as_uri(), "digest": package.digest}
        moments["begin"] = time.perf_counter()
        path = f"{url}/v2/repository/models/m/load"
        httpx.post(path, json={"parameters": parameters}, timeout=120).raise_for_status()
        moments["end"] = time.perf_counter()

    answers = asyncio.run(served(url, 8, 3 * SWAP_SECONDS, swap))
    before = [each.seconds for each in answers if each.at + each.seconds < moments["begin"]]
    during = [
        each.seconds for each in answers if each.at < moments["end"] and each.at + each.seconds >= moments["begin"]
    ]
    failed = sum(answer.status != 200 for answer in answers)
    p99 = [float(np.percentile(seconds, 99)) for seconds in (before, during)]
    return (
        f"| {name} | {len(answers)} | {failed} | {moments['end'] - moments['begin']:.2f} | {1000 * p99[0]:.0f} | "
        f"{1000 * p99[1]:.0f} | {p99[1] / p99[0]:.2f} |"
    )


def main() -> None:
    throughput: list[str] = []
    swaps: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            package = import_torchvision(name, "none", Path(folder) / name)
            network = load(package, choose_device("auto"))
            with predictor(package) as url:
                throughput += throughput_rows(name, network, url)
                swaps.append(swap_row(name, package, url))
                print(*throughput, *swaps, sep="\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [
        f"{machine('torch', 'torchvision', 'kserve')[:-1]}; {device}; "
        f"load average {os.getloadavg()[1]:.1f} at the end. "
        "float32, uint8 224 x 224 in, REST with "
        f"binary tensors, client on the same machine; {ROUNDS} rounds of {SECONDS:g} s, median (least to most).",
        "",
        "| Network | Concurrency | images/s, whimbrel | bare loop | whimbrel / bare | ms over the bare call |",
        "|---|---|---|---|---|---|",
        *throughput,
        "",
        "| Network | Requests | Failed | Swap, s | p99 before, ms | during, ms | during / before |",
        "|---|---|---|---|---|---|---|",
        *swaps,
    ]
    write_section(BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
