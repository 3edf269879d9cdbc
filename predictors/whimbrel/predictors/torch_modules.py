"""A verified package's network as a torch module: its weights mapped from their file, in a dtype, on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from whimbrel.core import pt2
from whimbrel.core.errors import PackageRefused
from whimbrel.core.package import EXPORTED_ARCHITECTURE, Manifest, Package
from whimbrel.core.tensors import CLASSIFICATION


def module_of(package: Package, device: torch.device) -> Any:
    """The network in the dtype that its weights are stored in; those of an architecture may still lie on the CPU.

    Raises PackageRefused for weights that do not fit the architecture, and for what could run foreign code.
    """
    if package.manifest.architecture == EXPORTED_ARCHITECTURE:
        return _exported(package, device)
    return _built(package)


def prepared(module: Any, dtype: torch.dtype, device: torch.device, *, channels_last: bool) -> Any:
    """`module` itself, computing in `dtype` on `device`. Weights that are so already stay mapped from their file."""
    if channels_last:
        return module.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    return module.to(device=device, dtype=dtype)


def dtype_of(module: Any) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def takes_channels_last(module: Any, manifest: Manifest) -> bool:
    """Whether (N, H, W, C) in memory pays: for a network whose layers are convolutions for the most part.

    An exported graph was recorded with another layout, which its views may insist on; detectors take images in a list.
    """
    if manifest.architecture == EXPORTED_ARCHITECTURE or manifest.task != CLASSIFICATION:
        return False
    layers = [type(each).__name__ for each in module.modules()]
    return layers.count("Conv2d") >= max(1, layers.count("Linear"))


def _built(package: Package) -> torch.nn.Module:
    """The architecture that the manifest names, with the weights of the package mapped from their file."""
    try:
        weights = safetensors.torch.load_file(package.weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise PackageRefused(f"expected safetensors in {package.weights}; {error}") from None
    module = _on_meta(package.manifest, weights) or _constructed(package.manifest, weights)
    return module.eval().requires_grad_(False)


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
