"""Compiles a package's network for this machine's device by AOTInductor, ahead of every start that loads it.

What comes of it is machine code without weights, for batches of 1 to a largest size, in one dtype. It is taken only
when it gives the top labels that the network gives uncompiled. Takes from seconds to minutes, and a C++ compiler.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whimbrel.core import calibration
from whimbrel.core.attestations import LEAST_AGREEMENT, Agreement, CompiledCode
from whimbrel.core.errors import InputRefused, ModelFailed, PackageRefused, SettingsError
from whimbrel.core.package import EXPORTED_ARCHITECTURE, Package, sha256_of_file
from whimbrel.core.tensors import CLASSIFICATION, INDICES, SCORES
from whimbrel.predictors import compiled, precision, torch_network
from whimbrel.predictors.network import Images
from whimbrel.predictors.precision import Asked, Precision
from whimbrel.predictors.torch_network import TorchNetwork

MAX_EXPORTED_BATCH = 1024  # as exported networks are recorded
SAMPLES = 32
NEARLY_TIED = 0.02  # scores that differ by less everywhere are the same, whichever label they put first
_COMPILERS = ("g++", "clang++")
_OPTIONS = {
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.precompile_headers": False,  # they would pay if many networks were compiled
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """`path` holds what `code` describes. `agreement`: where it was measured to choose the dtype."""

    path: Path
    code: CompiledCode
    agreement: Agreement | None


def compile_code(package: Package, device: torch.device, dtype: Precision, max_batch: int, folder: Path) -> Made:
    """Code for batches of 1 to `max_batch` in `dtype` (auto: as a predictor here would choose), written to `folder`.

    Raises InputRefused (a task or a size that is not compiled), SettingsError (no C++ compiler), PackageRefused (a
    network that cannot be exported or compiled) and ModelFailed (code that gives other labels).
    """
    _check(package, max_batch)
    agreement = torch_network.agreement_on(package, device) if dtype == precision.AUTO else None
    known = Asked(dtype).attestations.model_copy(update={"agreements": (agreement,) if agreement else ()})
    network = torch_network.load(package, device, asked=Asked(dtype, known))
    path = folder / "code.pt2"
    _compile(network, max_batch, path)
    _check_labels(package, network, path, device, max_batch)
    code = CompiledCode(
        target=torch_network.target_of(device),
        dtype=network.computing.dtype,
        max_batch=max_batch,
        sha256=sha256_of_file(path),
        size=path.stat().st_size,
    )
    return Made(path, code, agreement)


def _check(package: Package, max_batch: int) -> None:
    manifest = package.manifest
    if manifest.task != CLASSIFICATION:
        raise InputRefused(f"expected a package for {CLASSIFICATION} to compile, seen one for {manifest.task}")
    most = MAX_EXPORTED_BATCH if manifest.architecture == EXPORTED_ARCHITECTURE else 4096
    if not 1 < max_batch <= most:
        raise InputRefused(f"expected a largest batch of 2 to {most} images (--max-batch), seen {max_batch}")
    named = os.environ.get("CXX")
    if not any(shutil.which(each) for each in ([named] if named else _COMPILERS)):
        raise SettingsError(f"expected a C++ compiler ({' or '.join(_COMPILERS)}, or the one in CXX), seen none")


def _compile(network: TorchNetwork, max_batch: int, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1, max=max_batch)
    try:
        with torch.no_grad():
            sample = network.sample(2)  # torch would take a batch of one for a constant
            program = torch.export.export(network.module, (sample,), dynamic_shapes=({0: batch},))
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=_OPTIONS)
    except Exception as error:  # whatever torch's compiler raises
        raise PackageRefused(
            f"expected a network that AOTInductor compiles, seen {type(error).__name__}: {str(error)[:500]}"
        ) from error


def _check_labels(package: Package, network: TorchNetwork, path: Path, device: torch.device, max_batch: int) -> None:
    """Sizes differ from batch to batch, so that what was compiled for one alone is found."""
    images = calibration.read(package)
    if images is None:
        preset = package.manifest.preset
        images = np.random.default_rng(0).integers(0, 256, (SAMPLES, preset.height, preset.width, 3), np.uint8)
    expected = _scores(network, images, max_batch)
    network.module = compiled.opened(path, network.module, device)
    seen = _scores(network, images, max_batch)
    same_label = expected.argmax(axis=1) == seen.argmax(axis=1)
    agreeing = int((same_label | (np.abs(expected - seen).max(axis=1) <= NEARLY_TIED)).sum())
    if agreeing < LEAST_AGREEMENT * len(images):
        raise ModelFailed(f"expected compiled code with the same top labels, seen {agreeing} of {len(images)}")


def _scores(network: TorchNetwork, images: Images, max_batch: int) -> Any:
    """(N, classes), by index."""
    classes = len(network.description.labels)
    found, first, size = [], 0, 1
    while first < len(images):
        batch = images[first : first + size]
        outputs = network.infer(batch, classes)
        found.append(np.take_along_axis(outputs[SCORES], outputs[INDICES].argsort(axis=1), axis=1))
        first, size = first + len(batch), min(2 * size, max_batch, 16)
    return np.concatenate(found)
