"""The network alone, batches of 8: each dtype as torch's documentation has it, as the predictor computes it, compiled.

All in one process, in turn. Plain is a module with its channels first, which is how a network comes from torchvision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import torch
from predictor.measured import Setting, bare, conditions, each_network
from report import spread

from whimbrel.core.errors import WhimbrelError
from whimbrel.core.package import Package
from whimbrel.predictors import compiled, compiling, torch_modules, torch_network
from whimbrel.predictors.precision import Asked
from whimbrel.predictors.torch_network import TorchNetwork, choose_device

BATCH = 8
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def section(setting: Setting) -> list[str]:
    rows = each_network(setting, lambda name, package: _rows(name, package, setting))
    return [
        conditions(setting, f"batches of {BATCH}, uint8 224 x 224 in, no server"),
        "",
        "| Network | Computed | images/s | / plain float32 |",
        "|---|---|---|---|",
        *rows,
    ]


def _rows(name: str, package: Package, setting: Setting) -> list[str]:
    with variants(package) as networks:
        rates: dict[str, list[float]] = {label: [] for label in networks}
        for _ in range(setting.rounds):
            for label, network in networks.items():
                rates[label].append(bare(network, BATCH, setting.seconds)[0])
    plain = rates["plain float32"]
    return [
        f"| {name} | {label} | {spread(seen, 1)} | "
        f"{spread([ours / theirs for ours, theirs in zip(seen, plain, strict=True)], 2)} |"
        for label, seen in rates.items()
    ]


@contextmanager
def variants(package: Package) -> Iterator[dict[str, TorchNetwork]]:
    """The network of `package` in each way, by what the table calls it. What does not compile is told and left out."""
    device, networks = choose_device("auto"), dict[str, TorchNetwork]()
    with ExitStack() as stack:
        for dtype in DTYPES:
            ours = torch_network.load(package, device, asked=Asked(dtype))
            module = torch_modules.module_of(package, device)
            prepared = torch_modules.prepared(module, getattr(torch, dtype), device, channels_last=False)
            networks[f"plain {dtype}"] = TorchNetwork(prepared, ours.task, device)
            networks[f"whimbrel, {dtype}"] = ours
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                code = compiling.compile_code(package, device, dtype, BATCH, folder)
            except WhimbrelError as error:
                print(f"{dtype} is not compiled: {error}")
                continue
            by_code = torch_network.load(package, device, asked=Asked(dtype))
            by_code.module = compiled.opened(code.path, by_code.module, device)
            networks[f"whimbrel, {dtype}, compiled"] = by_code
        yield networks
        for network in networks.values():
            network.close()
