"""Makes model packages of networks that were trained elsewhere: torchvision's, and exported files."""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from whimbrel.core import calibration
from whimbrel.core.errors import InputRefused, PackageRefused, Unavailable
from whimbrel.core.package import EXPORTED, EXPORTED_ARCHITECTURE, WEIGHTS, Package, Preset, verify, write_manifest
from whimbrel.core.tensors import CLASSIFICATION, DETECTION, POSE
from whimbrel.mlflow.detectors import NORM_EPS, detector, is_detector
from whimbrel.mlflow.exported import rewrite
from whimbrel.mlflow.staging import staged

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Prepared = Callable[[Preset], NDArray[np.uint8]]  # images for the calibration set, by the network's preset

NO_WEIGHTS: Final = "none"
DOWNLOAD_SECONDS: Final = 30.0
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def import_torchvision(
    name: str,
    weights: str,
    folder: Path,
    *,
    labels: Sequence[str] | None = None,
    keypoints: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    calibrate: Prepared | None = None,
) -> Package:
    """A package of torchvision's network `name`, for classification, detection or pose.

    `weights`: `DEFAULT` or a name of the network's weights enum, which brings its labels and preset; a state dict in
    a .safetensors file; or `none`, random (but always the same) weights for measurements. With a file or `none`,
    preset and labels are those of DEFAULT, unless `labels` are given. `keypoints` are those of a pose; `size`, height
    and width, is that of a detector's input, whose pictures are padded to it. `calibrate` prepares the calibration set.
    Raises InputRefused (no such network or weights, no images for a set), PackageRefused (weights that do not fit)
    and Unavailable (weights neither cached nor to be had).
    """
    import torch
    from safetensors.torch import save_file
    from torchvision import models

    if name not in models.list_models(module=models) and not is_detector(name):
        raise InputRefused(
            f"expected a network of torchvision for classification, detection or pose, seen {name!r}; resnet50 "
            "is one, fasterrcnn_resnet50_fpn another"
        )
    entry = _weights_entry(name, weights)
    published = entry.name == weights
    if labels is not None and published:
        raise InputRefused(f"expected no labels with the weights {weights}, which bring their own")
    if is_detector(name):
        found = detector(name, entry, published=published, labels=labels, keypoints=keypoints, size=size)
        options, preset = found.options, found.preset
        fields = {"task": found.task, "labels": found.labels, "keypoints": found.keypoints}
    elif keypoints is not None or size is not None:
        raise InputRefused(f"expected neither keypoints nor size for {name}, a network for classification")
    else:
        named = list(labels or entry.meta["categories"])
        options = _architecture_options(name, entry) | ({"num_classes": len(named)} if labels is not None else {})
        preset, fields = _preset(entry), {"task": CLASSIFICATION, "labels": named}
    state = _state(name, weights, entry, options)
    with staged(folder) as staging:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, staging / WEIGHTS)
        write_manifest(
            staging,
            {
                **fields,
                "architecture": f"torchvision:{name}",
                "architecture_options": options,
                "preset": preset.model_dump(mode="json", exclude_none=True),
                "torch_version": str(torch.__version__),
            },
            [WEIGHTS, *_calibration(calibrate, preset, staging)],
        )
    return verify(folder, None)


def import_exported(
    file: Path,
    folder: Path,
    *,
    labels: Sequence[str],
    preset: Preset,
    task: str = CLASSIFICATION,
    calibrate: Prepared | None = None,
) -> Package:
    """A package of the network in `file`, an archive of torch.export.save, less whatever torch would unpickle.

    It takes normalised float (N, 3, height, width) and gives (N, number of labels), or whatever `task`, one of a
    user's own, reads; `calibrate` prepares the calibration set. Raises PackageRefused when it is unsafe or gives
    something else, InputRefused for no such set and for a task that no exported network is for.
    """
    import torch

    if task in (DETECTION, POSE):
        raise InputRefused(f"expected torchvision:NAME for {task}, or a task of your own for {file}, seen {task!r}")
    with staged(folder) as staging:
        rewrite(file, staging / EXPORTED)
        _check_answer(staging / EXPORTED, file, preset, len(labels) if task == CLASSIFICATION else None)
        write_manifest(
            staging,
            {
                "task": task,
                "architecture": EXPORTED_ARCHITECTURE,
                "preset": preset.model_dump(mode="json", exclude_none=True),
                "labels": list(labels),
                "torch_version": str(torch.__version__),
            },
            [EXPORTED, *_calibration(calibrate, preset, staging)],
        )
    return verify(folder, None)


def _calibration(calibrate: Prepared | None, preset: Preset, folder: Path) -> list[str]:
    return [] if calibrate is None else [calibration.write(calibrate(preset), preset, folder)]


def _weights_entry(name: str, weights: str) -> Any:
    """The member of the network's weights enum that gives preset and labels."""
    from torchvision import models

    known = models.get_model_weights(name)
    if weights == NO_WEIGHTS or weights.endswith(".safetensors"):
        return known.DEFAULT
    if weights not in known.__members__:
        raise InputRefused(
            f"expected as weights of {name} one of {', '.join([*known.__members__, NO_WEIGHTS])} or a .safetensors "
            f"file, seen {weights!r}"
        )
    return known[weights]


def _architecture_options(name: str, entry: Any) -> dict[str, int | bool | str | float]:
    """What torchvision itself adds to the constructor's arguments for these weights."""
    if name.startswith("vit_"):
        return {"image_size": int(entry.meta["min_size"][0])}
    if name in ("inception_v3", "googlenet"):
        return {"transform_input": True, "init_weights": False}
    return {}


def _state(name: str, weights: str, entry: Any, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    import torch
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.get_model(name, weights=None, **_arguments(name, options))
    if weights == NO_WEIGHTS:
        return dict(network.state_dict())
    state = _state_of_file(Path(weights)) if weights.endswith(".safetensors") else _downloaded(name, entry)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise PackageRefused(f"expected the weights of torchvision's {name}, seen others: {str(error)[:300]}") from None
    return state


def _arguments(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Without a download of a detector's backbone."""
    given = {key: value for key, value in options.items() if key != NORM_EPS}
    return given | ({"weights_backbone": None} if is_detector(name) else {})


def _state_of_file(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise InputRefused(f"expected weights in {path}, seen no such file") from None
    except (SafetensorError, OSError) as error:
        raise PackageRefused(f"expected safetensors in {path}, seen none that can be read ({error})") from None


def _downloaded(name: str, entry: Any) -> dict[str, torch.Tensor]:
    """From torch's cache, or the network; read with weights_only, so that no code in it runs."""
    try:
        with _bounded_waits(), contextlib.redirect_stdout(sys.stderr):
            return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu"))
    except OSError as error:
        raise Unavailable(
            f"the weights {entry.name} of {name} are not in torch's cache and {entry.url} cannot be had ({error}); "
            "fetch them where there is a network, give a .safetensors file, or take the weights 'none'"
        ) from None
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise PackageRefused(f"expected the weights {entry.name} of {name}, seen others: {str(error)[:300]}") from None


@contextlib.contextmanager
def _bounded_waits() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _preset(entry: Any) -> Preset:
    """The transforms of the weights, torchvision's ImageClassification: resize the shorter side, crop the centre."""
    transforms = entry.transforms()
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    interpolation = transforms.interpolation.value
    if interpolation not in _INTERPOLATIONS:
        raise PackageRefused(f"expected one of the interpolations {_INTERPOLATIONS}, seen {interpolation!r}")
    return Preset(
        height=crop,
        width=crop,
        resize="crop",
        resize_size=resize,
        interpolation=interpolation,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _check_answer(exported: Path, file: Path, preset: Preset, classes: int | None) -> None:
    """That it computes, and without `classes` whatever; it is for a task of a user's own."""
    import torch

    gives = "" if classes is None else f" and give (N, {classes})"
    expected = f"expected {file} to take (N, 3, {preset.height}, {preset.width}){gives}"
    try:
        network: Any = torch.export.load(exported).module()
        with torch.no_grad():
            scores = [network(torch.zeros(count, 3, preset.height, preset.width)) for count in (1, 3)]
    except Exception as error:  # whatever a foreign network raises
        raise PackageRefused(f"{expected}, seen {type(error).__name__}: {str(error)[:300]}") from None
    if classes is None:
        return
    shapes = [tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__ for score in scores]
    if shapes != [(1, classes), (3, classes)]:
        raise PackageRefused(f"{expected}, seen {shapes} for 1 and 3 images; give as many labels as it has outputs")
