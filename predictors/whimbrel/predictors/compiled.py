"""Code that AOTInductor compiled for a network: chosen for this hardware, fetched by its digest, loaded.

It is machine code: it is loaded only where a setting allows it and the registry (or a model pointer, which repeats
it) names its digest, never because it lies beside a package. What does not fit is left aside, and the network computes
without it: a start never compiles. The weights are not in it; they are the package's, in the memory where they are.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whimbrel.core import code_archive, package_transfer
from whimbrel.core.attestations import CompiledCode
from whimbrel.core.errors import PackageRefused, WhimbrelError
from whimbrel.core.hardware import Target
from whimbrel.core.package import go_on

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL = "model"  # as AOTInductor names what it packages alone

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offered:
    """What the registry names for the version at `uri`, the client of its store, and how large batches become.
    `check` is called while it is fetched, and ends that by raising."""

    codes: tuple[CompiledCode, ...]
    uri: str
    client: S3Client | None
    max_batch: int
    check: Callable[[], None] = go_on


def fitting(codes: Sequence[CompiledCode], target: Target, dtype: str, max_batch: int) -> CompiledCode | None:
    """The code for `target` that computes in `dtype` batches of 1 to `max_batch`; what does not fit is logged."""
    if not codes:
        logger.info("no compiled code: the registry names none for this version; see 'whimbrel model compile'")
    for code in codes:
        reason = _unfit(code, target, dtype, max_batch)
        if reason is None:
            return code
        logger.info("compiled code %s is left aside: %s", code.sha256[:16], reason)
    return None


def loaded(offered: Offered, code: CompiledCode, module: Any, sample: torch.Tensor) -> CompiledModule | None:
    """`code` with the weights of `module`, once it has computed `sample`; None where that cannot be, which is logged.
    Raises what `check` raises.

    `sample`: a normalised batch (N, 3, H, W) in the dtype, memory layout and device of every later one.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix="whimbrel-code-"
        ) as folder:  # nobody else's: what was checked is loaded
            path = Path(folder) / "code.pt2"
            package_transfer.fetch_beside(offered.uri, code, path, offered.client, offered.check)
            compiled = opened(path, module, sample.device)
        compiled(sample)
    except WhimbrelError as error:
        offered.check()  # at the end of the process nothing computes without it either
        logger.warning("compiled code %s is left aside: %s", code.sha256[:16], error)
        return None
    except Exception as error:  # whatever torch's loader or the code raises
        logger.warning("compiled code %s is left aside: %s: %s", code.sha256[:16], type(error).__name__, error)
        return None
    return compiled


def opened(path: Path, module: Any, device: torch.device) -> CompiledModule:
    """The code in the archive at `path`, which has to be trusted. Raises PackageRefused for more than code, and for
    code that wants other weights than those of `module`."""
    code_archive.check(path)
    index = -1 if device.type == "cpu" else device.index or 0
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), MODEL, False, 1, index, False)
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers()), **_constants(module)}
    wanted = loader.get_constant_fqns()
    if missing := sorted(set(wanted) - set(weights)):
        raise PackageRefused(f"expected code for the weights of this network, seen it want {missing[0]!r}")
    given = {name: weights[name] for name in wanted}
    # use_inactive, check_full_update, user_managed: the code reads them where they lie
    loader.load_constants(given, False, True, True)
    return CompiledModule(loader, given)


class CompiledModule:
    """Called as the module that it was compiled from, with batches in the memory layout that it was compiled for."""

    def __init__(self, loader: Any, weights: dict[str, torch.Tensor]) -> None:
        self._loader, self._weights = loader, weights  # the code has only their addresses

    def __call__(self, images: torch.Tensor) -> Any:
        outputs = self._loader.boxed_run([images])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _unfit(code: CompiledCode, target: Target, dtype: str, max_batch: int) -> str | None:
    reason = code.target.unfit(target)
    if reason is None and code.dtype != dtype:
        reason = f"it computes in {code.dtype}, this version in {dtype}"
    if reason is None and code.max_batch < max_batch:
        reason = f"it takes batches of up to {code.max_batch}, here are up to {max_batch} (--max-batch-size)"
    return reason


def _constants(module: Any) -> dict[str, torch.Tensor]:
    """Tensors of an exported graph that are neither weights nor buffers."""
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
