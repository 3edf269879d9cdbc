"""A network that torch computes: built from a verified package, its images normalised, its output read by its task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from whimbrel.core import pt2
from whimbrel.core.errors import PackageRefused, SettingsError
from whimbrel.core.package import EXPORTED_ARCHITECTURE, Manifest, Package
from whimbrel.predictors import memory
from whimbrel.predictors.network import Images, Outputs, description_of
from whimbrel.predictors.tasks.chosen import task_of
from whimbrel.predictors.tasks.task import Task


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


def load(package: Package, device: torch.device, *, allowed_tasks: Sequence[str] = ()) -> TorchNetwork:
    """Raises PackageRefused for weights that do not fit the architecture, and for what could run foreign code."""
    manifest = package.manifest
    task = task_of(description_of(package), allowed_tasks)
    module = _exported(package, device) if manifest.architecture == EXPORTED_ARCHITECTURE else _built(package, device)
    return TorchNetwork(module, task, device)


class TorchNetwork:
    """`module`: (N, 3, H, W) normalised floats to what `task` reads; of classification, (N, classes) logits."""

    def __init__(self, module: Any, task: Task, device: torch.device) -> None:
        self.description, self.task = task.description, task
        self._module, self._device = module, device
        self._dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        # (3,) -> (1, 3, 1, 1); x/255 then (x - mean)/std, as the preset says
        self._mean = torch.tensor(task.description.preset.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(task.description.preset.std, device=device).view(1, 3, 1, 1)
        self._copies: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def stage(self, parts: Sequence[Images]) -> torch.Tensor:
        """(N, H, W, 3) uint8 on the device; the copy goes over a stream of its own, beside what computes."""
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._copies is not None)
        np.concatenate(parts, out=batch.numpy())
        if self._copies is None:
            return batch
        with torch.cuda.stream(self._copies):
            on_device = batch.to(self._device, non_blocking=True)
        self._copies.synchronize()
        return on_device

    @torch.inference_mode()
    def infer(self, images: torch.Tensor | Images, top_k: int) -> Outputs:
        return self.task.outputs(self._module(self._normalised(images)), len(images), top_k)

    def device_computes(self) -> bool:
        """After a CUDA error that sticks, every later call of this process fails too."""
        try:
            torch.ones(1, device=self._device).add_(1).item()
        except RuntimeError as error:
            return memory.ran_short(error)
        return True

    def close(self) -> None:
        self._module = None

    def _normalised(self, images: torch.Tensor | Images) -> torch.Tensor:
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.require(images, requirements="W"))  # torch warns of what it may not write to
        on_device = images.to(self._device)
        pixels = on_device.permute(0, 3, 1, 2).float().contiguous()  # (N, H, W, 3) -> (N, 3, H, W)
        return pixels.div_(255).sub_(self._mean).div_(self._std).to(self._dtype)


def _built(package: Package, device: torch.device) -> torch.nn.Module:
    """The architecture that the manifest names, with the weights of the package mapped from their file."""
    try:
        weights = safetensors.torch.load_file(package.weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise PackageRefused(f"expected safetensors in {package.weights}; {error}") from None
    module = _on_meta(package.manifest, weights) or _constructed(package.manifest, weights)
    return module.eval().requires_grad_(False).to(device)


def _on_meta(manifest: Manifest, weights: dict[str, torch.Tensor]) -> torch.nn.Module | None:
    """Built without memory or initialisation. None for a network that computes values while it is built, or keeps
    some that are not among its weights, as detection's keep their anchors."""
    try:
        with torch.device("meta"), _NoRandomValues():
            module = _architecture(manifest)
    except (RuntimeError, NotImplementedError):
        return None
    _assign(module, weights, manifest)
    return None if any(tensor.is_meta for tensor in _tensors_of(module)) else module


def _tensors_of(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Its weights, and what its modules keep as plain attributes or in lists."""
    yield from module.parameters()
    yield from module.buffers()
    for each in module.modules():
        for value in vars(each).values():
            for kept in value if isinstance(value, list | tuple) else (value,):
                if isinstance(kept, torch.Tensor):
                    yield kept


def _constructed(manifest: Manifest, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    module = _architecture(manifest)
    _assign(module, weights, manifest)
    return module


_RANDOM = ("normal_", "uniform_")


class _NoRandomValues(TorchFunctionMode):
    """Leaves tensors without memory as they are: torch would import its compiler to give them random values."""

    def __torch_function__(self, function: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        given = named or {}
        target = arguments[0] if arguments else given.get("tensor")
        if _sets_random_values(function) and isinstance(target, torch.Tensor) and target.is_meta:
            return target
        return function(*arguments, **given)


def _sets_random_values(function: Any) -> bool:
    return getattr(function, "__module__", None) == "torch.nn.init" or getattr(function, "__name__", "") in _RANDOM


def _architecture(manifest: Manifest) -> torch.nn.Module:
    from whimbrel.predictors import torchvision_networks  # an exported network needs none of it

    name, options = manifest.architecture.removeprefix("torchvision:"), manifest.architecture_options
    if any(option.startswith("weights") for option in options):
        raise PackageRefused("architecture_options: expected none about weights, which come from the package alone")
    preset = manifest.preset
    if torchvision_networks.is_detector(name) and (preset.mean, preset.std) != ((0.0,) * 3, (1.0,) * 3):
        raise PackageRefused(
            f"preset: expected mean 0 and std 1, since {name} normalises by itself, seen {preset.mean} and {preset.std}"
        )
    try:
        return torchvision_networks.build(name, dict(options))
    except (ValueError, TypeError, AssertionError) as error:
        raise PackageRefused(f"expected an architecture of torchvision, seen {name!r} {options}; {error}") from None


def _assign(module: torch.nn.Module, weights: dict[str, torch.Tensor], manifest: Manifest) -> None:
    try:
        module.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise PackageRefused(f"expected the weights of {manifest.architecture}; {_shortened(str(error))}") from None


def _exported(package: Package, device: torch.device) -> Any:
    pt2.check(package.weights)  # before torch's loader sees it, which would unpickle what the archive asks it to
    try:
        program = torch.export.load(package.weights)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # torch's loader raises whatever its parsers raise
        raise PackageRefused(f"expected an exported network in {package.weights}; {_shortened(str(error))}") from None


def _shortened(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else text[:limit] + " ..."
