"""Ours, a naive KServe predictor and the field's servers over the same weights, in turn, round after round."""

from __future__ import annotations

import numpy as np
from predictor import plot
from predictor.contenders import checks_of, contenders, measure
from predictor.figures import BARE, CONCURRENCIES, Seen, rates_table, ratios_table, said
from predictor.measured import IMAGES, Setting, bare, bare_network, conditions
from sklearn.datasets import load_sample_images

from whimbrel.core.calibration import MIN_IMAGES
from whimbrel.core.package import Package, Preset
from whimbrel.mlflow.packages import import_torchvision
from whimbrel.predictors.network import Images


def section(setting: Setting) -> list[str]:
    seen = {name: _measured(_calibrated(name, setting), setting) for name in setting.packages}
    picture = plot.draw_peers(
        {
            name: {who: each.rates for who, each in servers.items() if each.failure is None}
            for name, servers in seen.items()
        }
    )
    tables = [
        line
        for name, servers in seen.items()
        for line in (*rates_table(name, servers), "", *ratios_table(name, servers), "")
    ]
    condition = "float32 but for dtype auto, uint8 224 x 224 in, one worker, peers' batches: at most 32, waiting 10 ms"
    return [conditions(setting, condition), "", *tables, f"![Images a second by server and concurrency]({picture})"]


def _calibrated(name: str, setting: Setting) -> Package:
    """The same weights with a calibration set, without which `auto` is float32."""
    return import_torchvision(name, "none", setting.folder / f"{name}-calibrated", calibrate=_photographs)


def _photographs(preset: Preset) -> Images:
    """Parts of two photographs, as many as a set has to have."""
    chance, parts = np.random.default_rng(0), list[Images]()
    photographs, sides = load_sample_images().images, (preset.height, preset.width)
    for number in range(MIN_IMAGES):
        whole = photographs[number % 2]
        top, left = (int(chance.integers(whole.shape[axis] - side)) for axis, side in enumerate(sides))
        parts.append(whole[top : top + preset.height, left : left + preset.width])
    return np.stack(parts)


def _measured(package: Package, setting: Setting) -> dict[str, Seen]:
    network, field = bare_network(package), contenders()
    checks = checks_of(network, IMAGES)
    seen = {BARE: Seen("nobody"), **{contender.name: Seen(contender.asked) for contender in field}}
    for number in range(setting.rounds):
        for clients in CONCURRENCIES:
            seen[BARE].rates.setdefault(clients, []).append(bare(network, clients, setting.seconds)[0])
        for contender in field:
            measure(contender, package, setting, checks=checks, seen=seen[contender.name])
            print(f"round {number + 1} of {setting.rounds}, {contender.name}: {said(seen[contender.name])}", flush=True)
    network.close()
    return seen
