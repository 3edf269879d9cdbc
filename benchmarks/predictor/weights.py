"""Packages of torchvision's networks that tell two photographs apart, each part of them by a margin.

No published weights are needed to measure how fast a network is, but random ones make classes that are nearly tied for
whatever image, and layers that magnify what they get: which class is best then changes with the precision, as it does
for hardly any image of a network that was trained. So the residual branches begin small, as trainers let them, the
normalisation of each layer is that of the photographs, and the last layer is fitted to parts of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from torchvision.models.resnet import BasicBlock, Bottleneck

from whimbrel.core.calibration import MIN_IMAGES
from whimbrel.core.package import Package, Preset
from whimbrel.mlflow.packages import import_torchvision
from whimbrel.predictors import torch_network
from whimbrel.predictors.network import Images
from whimbrel.predictors.precision import Asked
from whimbrel.predictors.torch_network import TorchNetwork, choose_device

FITTED_TO, BRANCHES = 64, 0.2
_BATCH = 16


def telling_apart(name: str, folder: Path) -> Package:
    """The network `name` for its 1,000 classes, of which the first two are the photographs; with a calibration set of
    other parts of them."""
    random = import_torchvision(name, "none", folder / f"{name}-random")
    network = torch_network.load(random, choose_device("cpu"), asked=Asked("float32"))
    images, labels = _parts(random.manifest.preset, FITTED_TO, seed=1)
    _soften(network)
    _normalise(network, images)
    _fit(network, images, labels)
    weights = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in network.module.state_dict().items()}, weights)
    return import_torchvision(
        name, str(weights), folder / name, calibrate=lambda preset: _parts(preset, MIN_IMAGES, seed=0)[0]
    )


def _parts(preset: Preset, count: int, seed: int) -> tuple[Images, NDArray[np.int64]]:
    """Parts of two photographs, (count, H, W, 3) uint8, and from which of them each is."""
    chance, photographs = np.random.default_rng(seed), load_sample_images().images
    labels = np.arange(count) % len(photographs)
    return np.stack([_part(photographs[label], preset, chance) for label in labels]), labels


def _part(photograph: Images, preset: Preset, chance: np.random.Generator) -> Images:
    sides = (preset.height, preset.width)
    top, left = (int(chance.integers(whole - side)) for whole, side in zip(photograph.shape, sides, strict=False))
    part: Images = photograph[top : top + preset.height, left : left + preset.width]
    return part


def _batches(network: TorchNetwork, images: Images) -> list[torch.Tensor]:
    """Normalised, as the module gets them."""
    return [network._normalised(network._pixels(images[at : at + _BATCH])) for at in range(0, len(images), _BATCH)]


def _soften(network: TorchNetwork) -> None:
    """As torchvision's `zero_init_residual`, but not to nothing."""
    for block in network.module.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            torch.nn.init.constant_(last.weight, BRANCHES)


@torch.no_grad()
def _normalise(network: TorchNetwork, images: Images) -> None:
    """Mean and variance of every layer are those of `images`."""
    norms = [each for each in network.module.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.module.train()
    for batch in _batches(network, images):
        network.module(batch)
    network.module.eval()


@torch.no_grad()
def _fit(network: TorchNetwork, images: Images, labels: NDArray[np.int64]) -> None:
    """The last layer: the first two classes by logistic regression on what comes into it, the others far behind."""
    last, module = network.module.fc, network.module
    module.fc = torch.nn.Identity()
    features = torch.cat([module(batch) for batch in _batches(network, images)]).numpy()
    module.fc = last
    found = LogisticRegression(max_iter=1000).fit(features, labels)
    weight, bias = torch.zeros_like(last.weight), torch.full_like(last.bias, -10.0)
    for label, sign in ((0, -0.5), (1, 0.5)):
        weight[label] = sign * torch.from_numpy(found.coef_[0])
        bias[label] = sign * float(found.intercept_[0])
    last.weight.copy_(weight)
    last.bias.copy_(bias)
