"""A predictor from its process's first instruction to its first answer, against only what it cannot do without."""

from __future__ import annotations

import subprocess
import sys
import time

from predictor.measured import Setting, conditions, each_network
from predictor.process import predictor
from predictor.registered import following, registered, store_in
from report import spread

from testbed.stores import Store
from whimbrel.core.package import Package

REQUIRED = """
import os
import sys
from pathlib import Path
import numpy as np
from whimbrel.core import kserve_sdk
from whimbrel.core.package import Package, read_manifest
from whimbrel.predictors import torch_network
from whimbrel.predictors.precision import Asked
folder = Path(sys.argv[1])
package, device = Package(folder, *read_manifest(folder)), torch_network.choose_device("auto")
network = torch_network.load(package, device, asked=Asked("float32"))
preset = network.description.preset
network.infer(np.zeros((1, preset.height, preset.width, 3), np.uint8), 5)
"""
A_STORE = """
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
s3_client(S3Settings())
"""
THE_END = """
os._exit(0)  # the end of the interpreter is none of a start
"""


def section(setting: Setting) -> list[str]:
    with store_in(setting.folder) as store:
        rows = each_network(setting, lambda name, package: _rows(name, package, setting, store))
    return [
        conditions(setting, "one start of each a round, the package in the cache"),
        "",
        "| Network | Version | Process start to first answer, s | imports, weights and one forward alone, s | ratio |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _rows(name: str, package: Package, setting: Setting, store: Store) -> list[str]:
    pointers = registered(name, package, store, setting.folder)
    kinds = {
        "float32, from a folder": {"model_cache": str(pointers.cache)},
        "auto, behind a pointer": following(pointers.plain, pointers.cache),
    }
    if pointers.compiled is not None:
        kinds["auto, behind a pointer, compiled"] = following(pointers.compiled, pointers.cache)
    starts: dict[str, list[float]] = {kind: [] for kind in kinds}
    required: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(setting.rounds + 1):
        for kind, settings in kinds.items():
            with predictor(package, settings, store.settings_environment) as served:
                seconds = served.seconds_to_first_answer
            if number:  # the first one fills the cache
                starts[kind].append(seconds)
                required[kind].append(_required(package, A_STORE if "pointer" in kind else ""))
    return [row(name, kind, seen, required[kind]) for kind, seen in starts.items()]


def _required(package: Package, more: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", REQUIRED + more + THE_END, str(package.folder)], check=True)
    return time.perf_counter() - began


def row(name: str, kind: str, starts: list[float], required: list[float]) -> str:
    ratio = [ours / theirs for ours, theirs in zip(starts, required, strict=True)]
    return f"| {name} | {kind} | {spread(starts, 2)} | {spread(required, 2)} | {spread(ratio, 2)} |"
