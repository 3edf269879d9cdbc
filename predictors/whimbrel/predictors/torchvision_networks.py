"""Builds one of torchvision's networks without importing the rest of torchvision.

`import torchvision` brings datasets, video, detection and, through them, torch's compiler: together as long as torch
itself takes. A classifier needs one module of `torchvision.models`, so its packages are entered without running
their `__init__`. Where a module needs more than that, everything is imported after all.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torchvision", "torchvision.models", "torchvision.ops")
_MODULES = {  # by how the names of the networks begin
    r"resnet|resnext|wide_resnet": "resnet",
    r"squeezenet": "squeezenet",
    r"mobilenet_v2": "mobilenetv2",
    r"mobilenet_v3": "mobilenetv3",
    r"densenet": "densenet",
    r"vgg": "vgg",
    r"alexnet": "alexnet",
    r"mnasnet": "mnasnet",
    r"shufflenet_v2": "shufflenetv2",
    r"regnet": "regnet",
    r"convnext": "convnext",
    r"vit_": "vision_transformer",
    r"swin_": "swin_transformer",
    r"efficientnet": "efficientnet",
}

_DETECTORS = r"(fasterrcnn|keypointrcnn|retinanet|fcos|ssd)"
_NORM_EPS = "norm_eps"

_entered: dict[str, ModuleType] = {}


def is_detector(name: str) -> bool:
    """Whether it takes images from 0 to 1, which it normalises and resizes itself, and gives objects."""
    return re.match(_DETECTORS, name) is not None


def build(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """The network `name` without weights. Raises ValueError, TypeError or AssertionError for what there is not."""
    if is_detector(name):
        return _detector(name, options)
    module = _module_of(name)
    if module is None or "torchvision" in sys.modules:
        return _built_by_all(name, options)
    try:
        with _bare_packages():
            importlib.import_module(f"torchvision.models.{module}")
            api = importlib.import_module("torchvision.models._api")
    except (ImportError, AttributeError):
        return _built_by_all(name, options)
    network: torch.nn.Module = api.get_model(name, weights=None, **options)
    return network


def _built_by_all(name: str, options: dict[str, Any]) -> torch.nn.Module:
    import torchvision

    network: torch.nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _detector(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """`norm_eps` is no argument of torchvision's: it sets it after the fact, for some of the weights that it brings."""
    import torch

    eps = options.pop(_NORM_EPS, None)
    network = _built_by_all(name, {"weights_backbone": None, **options})
    if eps is not None:
        for module in network.get_submodule("backbone").modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = float(eps)
    return network


def _module_of(name: str) -> str | None:
    return next((module for pattern, module in _MODULES.items() if re.match(pattern, name)), None)


@contextmanager
def _bare_packages() -> Iterator[None]:
    """While entered, the packages are there with their place only; after it, an import finds the real ones."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchvision")
    sys.modules.update(_entered or _bare(Path(spec.submodule_search_locations[0])))
    try:
        yield
    finally:
        entered = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torchvision"}
        _entered.update(entered)


def _bare(folder: Path) -> dict[str, ModuleType]:
    found = {}
    for name in _PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        found[name] = package
    return found
