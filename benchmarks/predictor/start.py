"""A predictor from its process's first instruction to its first answer, against only what it cannot do without."""

from __future__ import annotations

import subprocess
import sys
import time

from predictor.measured import Setting, conditions, each_network
from predictor.process import predictor
from report import spread

from whimbrel.core.package import Package

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


def section(setting: Setting) -> list[str]:
    return [
        conditions(setting, "one start of each a round"),
        "",
        "| Network | Process start to first answer, s | imports, weights and one forward alone, s | ratio |",
        "|---|---|---|---|",
        *each_network(setting, lambda name, package: [_row(name, package, setting)]),
    ]


def _row(name: str, package: Package, setting: Setting) -> str:
    starts, required = list[float](), list[float]()
    for _ in range(setting.rounds):
        with predictor(package) as served:
            starts.append(served.seconds_to_first_answer)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", REQUIRED, str(package.folder)], check=True)
        required.append(time.perf_counter() - began)
    ratio = [ours / theirs for ours, theirs in zip(starts, required, strict=True)]
    return f"| {name} | {spread(starts, 2)} | {spread(required, 2)} | {spread(ratio, 2)} |"
