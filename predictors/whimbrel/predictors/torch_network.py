"""A network that torch computes: a verified package's module, its images normalised, its output read by its task."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whimbrel.core import calibration
from whimbrel.core.attestations import Agreement
from whimbrel.core.errors import SettingsError
from whimbrel.core.hardware import Target, cpu_target, cuda_target
from whimbrel.core.package import Package
from whimbrel.core.tensors import CLASSIFICATION
from whimbrel.predictors import agreement, compiled, memory, precision, torch_modules
from whimbrel.predictors.compiled import Offered
from whimbrel.predictors.cuda_graphs import GraphedModule
from whimbrel.predictors.network import COMPILED, EAGER, Computing, Images, Outputs, description_of
from whimbrel.predictors.precision import Asked
from whimbrel.predictors.staging import Staged, StagingBuffers
from whimbrel.predictors.tasks.chosen import task_of
from whimbrel.predictors.tasks.task import Task

logger = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises SettingsError for a CUDA device that is not there."""
    found = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if found else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        raise SettingsError(
            f"setting WHIMBREL_DEVICE (--device): expected one of {found} CUDA devices, seen {name!r}; set auto or cpu"
        )
    return device


def target_of(device: torch.device) -> Target:
    version = str(torch.__version__)
    if device.type == "cuda":
        return cuda_target(version, torch.cuda.get_device_capability(device))
    return cpu_target(version)


def load(
    package: Package,
    device: torch.device,
    *,
    allowed_tasks: Sequence[str] = (),
    asked: Asked | None = None,
    code: Offered | None = None,
    cuda_graphs: bool = False,
) -> TorchNetwork:
    """In the precision of `asked` (absent: `auto`, nothing known), by compiled code where `code` offers some that fits.

    Raises PackageRefused for weights that do not fit the architecture, and for what could run foreign code.
    """
    asked = asked or Asked()
    task = task_of(description_of(package), allowed_tasks)
    module, target = torch_modules.module_of(package, device), target_of(device)
    own = _name(torch_modules.dtype_of(module))

    def measure(dtype: str) -> Agreement | None:
        return measured(package, module, device, task, dtype, asked=asked)

    chosen = precision.choose(package, own, target, asked, measure)
    logger.info("computes in %s: %s", chosen.dtype, chosen.why, extra={"digest": package.digest})
    network = TorchNetwork.of(module, package, task, device, chosen.dtype)
    if code is not None:
        network.compute_by(code, target)
    recordable = network.description.task == CLASSIFICATION and network.computing.code == EAGER
    if cuda_graphs and device.type == "cuda" and recordable:
        network.module = GraphedModule(network.module, device)
    return network


def measured(
    package: Package, module: Any, device: torch.device, task: Task, dtype: str, *, asked: Asked
) -> Agreement | None:
    """How far `dtype` agrees with float32 on the package's calibration set; None where there was no time for it, or
    there is no set. `module` is the package's, and in float32 afterwards. Raises PackageRefused for what is no such
    set."""
    images = calibration.read(package)
    if images is None:
        return None
    reference = TorchNetwork.of(module, package, task, device, precision.FLOAT32)
    lower = TorchNetwork.of(torch_modules.module_of(package, device), package, task, device, dtype)
    return agreement.compared(reference.infer, lower.infer, images, target=target_of(device), dtype=dtype, asked=asked)


def agreement_on(package: Package, device: torch.device) -> Agreement | None:
    """How far the lower precision of this hardware agrees, for the registry; None where `auto` would not ask."""
    lower = target_of(device).lower_dtype
    if lower is None or package.calibration is None or package.manifest.task != CLASSIFICATION:
        return None
    module, task = torch_modules.module_of(package, device), task_of(description_of(package))
    return measured(package, module, device, task, lower, asked=Asked(longest_seconds=math.inf))


class TorchNetwork:
    """`module`: (N, 3, H, W) normalised floats to what `task` reads; of classification, (N, classes) logits."""

    def __init__(self, module: Any, task: Task, device: torch.device, *, channels_last: bool = False) -> None:
        self.description, self.task = task.description, task
        self.module, self._device = module, device
        self._dtype = torch_modules.dtype_of(module)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.computing = Computing(_name(self._dtype))
        # (3,) -> (1, 3, 1, 1); x/255 then (x - mean)/std, as the preset says
        self._mean = torch.tensor(task.description.preset.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(task.description.preset.std, device=device).view(1, 3, 1, 1)
        self._buffers = StagingBuffers(device)

    @classmethod
    def of(cls, module: Any, package: Package, task: Task, device: torch.device, dtype: str) -> TorchNetwork:
        """With the weights of `module`, which is the package's, in `dtype` on the device."""
        channels_last = torch_modules.takes_channels_last(module, package.manifest)
        module = torch_modules.prepared(module, getattr(torch, dtype), device, channels_last=channels_last)
        return cls(module, task, device, channels_last=channels_last)

    @torch.inference_mode()
    def compute_by(self, code: Offered, target: Target) -> None:
        """Compute by compiled code from now on, where some of `code` fits and computes; why not is in the log."""
        found = compiled.fitting(code.codes, target, self.computing.dtype, code.max_batch)
        if found is None:
            return
        module = compiled.loaded(code, found, self.module, self.sample(1))
        if module is not None:
            self.module = module
            self.computing = Computing(self.computing.dtype, COMPILED)
            logger.info("computes by compiled code %s", found.sha256[:16])

    def stage(self, parts: Sequence[Images]) -> Staged:
        """(N, H, W, 3) uint8 on the device; the copy goes over a stream of its own, beside what computes."""
        return self._buffers.stage(parts)

    def infer(self, images: Staged | Images, top_k: int) -> Outputs:
        if isinstance(images, Staged):
            with images.on_device() as pixels:
                return self.infer_on_device(pixels, top_k)
        return self.infer_on_device(self._pixels(images), top_k)

    @torch.inference_mode()
    def infer_on_device(self, pixels: torch.Tensor, top_k: int) -> Outputs:
        """`pixels`: (N, H, W, 3) uint8 on the device."""
        return self.task.outputs(self.module(self._normalised(pixels)), len(pixels), top_k)

    def sample(self, count: int) -> torch.Tensor:
        """A batch of black images as `module` gets it."""
        preset = self.description.preset
        return self._normalised(self._pixels(np.zeros((count, preset.height, preset.width, 3), np.uint8)))

    def device_computes(self) -> bool:
        """After a CUDA error that sticks, every later call of this process fails too."""
        try:
            torch.ones(1, device=self._device).add_(1).item()
        except RuntimeError as error:
            return memory.ran_short(error)
        return True

    def close(self) -> None:
        self.module = None

    def _pixels(self, images: Images) -> torch.Tensor:
        # torch warns of what it may not write to
        return torch.from_numpy(np.require(images, requirements="W")).to(self._device)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) floats in the network's dtype and memory layout."""
        floats = pixels.permute(0, 3, 1, 2).float().contiguous(memory_format=self._layout)
        return floats.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
