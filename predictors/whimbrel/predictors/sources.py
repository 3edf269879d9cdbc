"""From where a version lies to its network: locate, fetch and verify, build. All of it blocks: call it in a thread."""

from __future__ import annotations

import functools
import importlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from whimbrel.core import package_transfer, registry
from whimbrel.core.attestations import NOTHING, Attestations
from whimbrel.core.errors import InputRefused, PackageRefused
from whimbrel.core.hardware import BFLOAT16
from whimbrel.core.package import (
    EXPORTED_ARCHITECTURE,
    MAX_SIDE_PIXELS,
    WEIGHTS,
    Manifest,
    Package,
    go_on,
)
from whimbrel.core.package_transfer import Held
from whimbrel.core.s3 import s3_client
from whimbrel.predictors import memory, precision
from whimbrel.predictors.named_models import NamedModel
from whimbrel.predictors.network import Description, Network, description_of
from whimbrel.predictors.null_network import null_network
from whimbrel.predictors.precision import Asked
from whimbrel.predictors.settings import PredictorSettings
from whimbrel.predictors.torchvision_networks import is_detector

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NULL = "null:"
_REGISTRY = "models:/"


@dataclass(frozen=True, slots=True)
class Source:
    """One version of the model. `digest` is the package to expect; None where the registry tells it, or for null:.
    `attestations`: the registry's or the pointer's."""

    version: str | None
    uri: str
    digest: str | None
    attestations: Attestations = NOTHING


@dataclass(frozen=True, slots=True)
class Located:
    """A version whose package is here, verified, and held until its release; null: has none."""

    version: str
    source: Source
    held: Held | None
    description: Description

    def release(self) -> None:
        if self.held is not None:
            self.held.release()


@dataclass(frozen=True, slots=True)
class Needs:
    """`memory_bytes`: at least, for weights and the largest batch; `modules` that the network is built by."""

    memory_bytes: int
    modules: tuple[str, ...]


def source_of(model: NamedModel) -> Source:
    return Source(model.version, model.uri, model.digest, model.attestations)


def check_allowed(uri: str, prefixes: Sequence[str]) -> None:
    """Raises InputRefused unless `uri` lies under one of `prefixes`, whatever dots are in its path."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InputRefused(f"parameter uri: expected a URI, seen {uri[:200]!r}; {error}") from None
    path = unquote(parts.path)
    if parts.query or parts.fragment or posixpath.normpath(path) != path.rstrip("/"):
        raise InputRefused(f"parameter uri: expected a plain path, seen {uri[:200]!r}")
    for prefix in prefixes:
        if uri == prefix or uri.startswith(prefix if prefix.endswith(("/", ":")) else f"{prefix}/"):
            return
    raise InputRefused(
        f"parameter uri: expected one under {', '.join(prefixes) or 'no prefix at all'}, seen {uri[:200]!r}; "
        "WHIMBREL_ALLOWED_URI_PREFIXES (--allowed-uri-prefixes) names them"
    )


def look(source: Source, settings: PredictorSettings) -> Needs:
    """What `source` will take, from its model.json alone. Raises what `locate` raises."""
    if source.uri.startswith(_NULL):
        return Needs(0, ())
    resolved, digest = _pinned(source, settings)
    manifest = package_transfer.manifest_of(
        resolved.uri, digest, settings.model_cache, _client_for(resolved.uri, settings)
    )
    weights = _weights_size(manifest)
    if settings.dtype != precision.AUTO:  # it takes as much as in the package, or less
        weights = min(weights, precision.stored_bytes_in(weights, precision.FLOAT32, settings.dtype))
    return Needs(weights + _batch_bytes(manifest, settings), _modules_of(manifest))


def import_modules(needs: Needs) -> None:
    """Import what builds the network; torch is also who knows how much memory is free."""
    for name in needs.modules:
        importlib.import_module(name)
    memory.keep_modules(with_torch=bool(needs.modules))


def locate(source: Source, settings: PredictorSettings, check: Callable[[], None] = go_on) -> Located:
    """The verified package of `source`, downloaded where it has to be. Nothing loads that nobody pinned.

    `check` is called every so often and ends it by raising. Raises PackageRefused, NotFound, Unavailable and
    SettingsError.
    """
    if source.uri.startswith(_NULL):
        return Located(source.version or "null", source, None, _null_network(source, settings).description)
    resolved, digest = _pinned(source, settings)
    held = package_transfer.fetch_held(
        *(resolved.uri, digest, settings.model_cache, _client_for(resolved.uri, settings)),
        cache_bytes=settings.model_cache_bytes,
        check=check,
    )
    version = resolved.version or digest.removeprefix("sha256:")[:12]
    return Located(version, resolved, held, description_of(held.package))


def build(located: Located, settings: PredictorSettings, check: Callable[[], None] = go_on) -> Network:
    """The network in memory. Raises PackageRefused, and what `check` raises."""
    if located.held is None:
        return _null_network(located.source, settings)
    return _torch_network(located.held.package, located.source, settings, check)


def needed_bytes(located: Located, settings: PredictorSettings) -> int:
    """Memory that its weights, in each precision that they are in at once while it is loaded, and its largest batch
    take. Activations are those of one batch at a time, of any version. Imports torch, which knows the hardware."""
    if located.held is None:
        return 0
    from whimbrel.predictors import torch_network

    package = located.held.package
    target = torch_network.target_of(torch_network.choose_device(settings.device))
    stored, size = _stored_dtype(package), _weights_size(package.manifest)
    at_once = precision.at_once(package, stored, target, _asked(located.source, settings, go_on))
    weights = sum(precision.stored_bytes_in(size, stored, dtype) for dtype in at_once)
    return weights + _batch_bytes(package.manifest, settings)


def taken_bytes(located: Located, network: Network, settings: PredictorSettings) -> int:
    """What it takes now that it is loaded, in the dtype that it computes in."""
    if located.held is None:
        return 0
    package, dtype = located.held.package, network.computing.dtype
    weights = precision.stored_bytes_in(_weights_size(package.manifest), _stored_dtype(package), dtype)
    return weights + _batch_bytes(package.manifest, settings)


def _resolved(source: Source, settings: PredictorSettings) -> Source:
    if not source.uri.startswith(_REGISTRY):
        return source
    found = registry.resolve(source.uri, settings.mlflow_tracking_uri)
    if source.digest is not None and source.digest != found.digest:
        raise PackageRefused(f"expected the model package {source.digest}, seen {found.digest} behind {source.uri}")
    version = source.version or found.version
    return replace(source, version=version, uri=found.uri, digest=found.digest, attestations=found.attestations)


def _pinned(source: Source, settings: PredictorSettings) -> tuple[Source, str]:
    resolved = _resolved(source, settings)
    if resolved.digest is None:
        raise PackageRefused(f"expected a digest for {source.uri}, seen none; nothing loads unpinned")
    return resolved, resolved.digest


def _weights_size(manifest: Manifest) -> int:
    return manifest.files[manifest.weights_file].size


def _batch_bytes(manifest: Manifest, settings: PredictorSettings) -> int:
    """As floats; they are normalised in float32 whatever the network computes in."""
    return settings.max_batch_size * manifest.preset.height * manifest.preset.width * 3 * 4


def _stored_dtype(package: Package) -> str:
    """Of the weights, from the head of their file; an exported network is taken for float32."""
    if package.weights.name != WEIGHTS:
        return precision.FLOAT32
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(package.weights, "np") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 it is no mapping
    except (SafetensorError, OSError):
        return precision.FLOAT32  # it is refused when it is built
    lower = [dtype for kind, dtype in (("BF16", BFLOAT16), ("F16", precision.FLOAT16)) if kind in kinds]
    return lower[0] if lower and "F32" not in kinds else precision.FLOAT32


def _modules_of(manifest: Manifest) -> tuple[str, ...]:
    torch_network = "whimbrel.predictors.torch_network"
    if manifest.architecture == EXPORTED_ARCHITECTURE:
        return (torch_network,)
    if is_detector(manifest.architecture.removeprefix("torchvision:")):
        return torch_network, "torchvision"
    return torch_network, "whimbrel.predictors.torchvision_networks"


@functools.lru_cache(maxsize=1)
def _store_client(settings: PredictorSettings) -> S3Client:
    """One for all: making it takes as long as building a network."""
    return s3_client(settings)


def _client_for(uri: str, settings: PredictorSettings) -> S3Client | None:
    return _store_client(settings) if uri.startswith("s3://") else None


def _null_network(source: Source, settings: PredictorSettings) -> Network:
    try:
        network = null_network(source.uri, delay_seconds=settings.null_delay_seconds)
    except ValueError:
        raise InputRefused(
            "parameter uri: expected null:[TASK:]CLASSES[,HEIGHTxWIDTH][,MILLISECONDSms][,PREFIX] with sides of at "
            f"most {MAX_SIDE_PIXELS}, seen {source.uri[:200]!r}"
        ) from None
    seen = network.description.digest
    if source.digest not in (None, seen):
        raise PackageRefused(f"expected the model package {source.digest}, seen {seen} for {source.uri}")
    return network


def _asked(source: Source, settings: PredictorSettings, check: Callable[[], None]) -> Asked:
    return Asked(settings.dtype, source.attestations, settings.model_cache, settings.calibration_seconds, check)


def _torch_network(package: Package, source: Source, settings: PredictorSettings, check: Callable[[], None]) -> Network:
    import torch

    from whimbrel.predictors import torch_network
    from whimbrel.predictors.compiled import Offered

    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    attested = source.attestations
    client = _client_for(source.uri, settings)
    return torch_network.load(
        package,
        torch_network.choose_device(settings.device),
        allowed_tasks=settings.allowed_tasks,
        asked=_asked(source, settings, check),
        code=Offered(attested.compiled, source.uri, client, settings.max_batch_size, check)
        if settings.compiled_code
        else None,
        cuda_graphs=settings.cuda_graphs,
    )
