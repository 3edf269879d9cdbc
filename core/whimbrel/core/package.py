"""The model package: a folder with `model.json` and the weights that it lists, trusted by its digest only.

    model.json          this module's `Manifest`: task, architecture, input preset, labels, digests of every file
    model.safetensors   the weights of a network that the architecture names, or
    model.pt2           an exported network that carries its own graph
    calibration.safetensors   optional: images to compare a lower precision with float32 on (`calibration.py`)

The package's digest is the sha256 of model.json in canonical form (keys sorted, no white space, UTF-8). As
model.json lists the digest of every other file, that one digest stands for the whole package; the registry, the
model pointer and the manifest carry it, and nothing loads that does not match. Files that model.json does not list
(MLflow's own `MLmodel`, for one) are never opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whimbrel.core.errors import PackageRefused

SCHEMA: Final = "whimbrel.dev/model/v1"
MANIFEST = "model.json"
WEIGHTS = "model.safetensors"
EXPORTED = "model.pt2"
EXPORTED_ARCHITECTURE = "pt2"
CALIBRATION = "calibration.safetensors"
MAX_CALIBRATION_BYTES = 256 * 1024 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_SIDE_PIXELS = 4096
_CHUNK_BYTES = 1024 * 1024

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Channels = tuple[float, float, float]

_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Preset(BaseModel):
    """How an image becomes the input of this model version: (H, W, 3) uint8 RGB, then the network's own floats.

    `resize`: `stretch` to (height, width); `crop`: the shorter side to `resize_size` pixels, then the centre
    (height, width), as torchvision's classification presets do; `pad`: the longer side to fit, black around it.
    `mean` and `std` apply to values scaled to 0..1 and are the predictor's business: tensors travel as uint8.
    """

    model_config = _FROZEN

    height: int = Field(ge=1, le=MAX_SIDE_PIXELS)
    width: int = Field(ge=1, le=MAX_SIDE_PIXELS)
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    resize_size: int | None = Field(default=None, ge=1, le=MAX_SIDE_PIXELS)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Preset:
        if (self.resize == "crop") != (self.resize_size is not None):
            raise ValueError("resize_size: given exactly with resize 'crop'")
        if self.resize_size is not None and self.resize_size < max(self.height, self.width):
            raise ValueError(f"resize_size: expected at least {max(self.height, self.width)}, the crop's longer side")
        if min(self.std) <= 0:
            raise ValueError("std: expected three numbers above 0")
        return self

    @property
    def digest(self) -> str:
        return digest_of_json(self.model_dump(mode="json"))


class FileEntry(BaseModel):
    model_config = _FROZEN

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """The content of model.json.

    `task`: one of ours, or with a dot in its name one that the predictor has installed, `example.tags`.
    `architecture` names the network: `torchvision:<name>` (built by `torchvision.models.get_model`, with
    `architecture_options` as its arguments, and of a detector `norm_eps`, that of its backbone's batch norms) or
    `pt2`. `labels[i]` is the name of output i, `keypoints` are those of a pose, in their order.
    """

    model_config = _FROZEN

    schema_: Literal["whimbrel.dev/model/v1"] = Field(default=SCHEMA, alias="schema")
    task: str = Field(pattern=r"^(classification|detection|pose|[a-z0-9_-]+(\.[a-z0-9_-]+)+)$", max_length=100)
    architecture: str = Field(pattern=r"^(pt2|torchvision:[a-z0-9_]+)$")
    architecture_options: dict[str, int | float | bool | str] = Field(default_factory=dict)
    preset: Preset
    labels: tuple[str, ...] = Field(min_length=1, max_length=100_000)
    keypoints: tuple[str, ...] = Field(default=(), max_length=1000)
    files: dict[str, FileEntry] = Field(min_length=1, max_length=1000)
    torch_version: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for name in self.files:
            check_file_name(name)
        if self.weights_file not in self.files:
            raise ValueError(f"files: expected {self.weights_file} for architecture {self.architecture!r}")
        calibration = self.files.get(CALIBRATION)
        if calibration is not None and calibration.size > MAX_CALIBRATION_BYTES:
            raise ValueError(f"files: expected {CALIBRATION} of at most {MAX_CALIBRATION_BYTES} bytes")
        return self

    @property
    def weights_file(self) -> str:
        return EXPORTED if self.architecture == EXPORTED_ARCHITECTURE else WEIGHTS


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose every file was verified. `digest` is `sha256:<hex>`."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def weights(self) -> Path:
        return self.folder / self.manifest.weights_file

    @property
    def calibration(self) -> Path | None:
        return self.folder / CALIBRATION if CALIBRATION in self.manifest.files else None


def check_file_name(name: str) -> None:
    """Raises ValueError for a name that could lead out of the package."""
    path = PurePosixPath(name)
    plain = re.fullmatch(r"[A-Za-z0-9._/-]{1,255}", name) and not path.is_absolute()
    if not plain or name == MANIFEST or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"files: expected a relative file name inside the package, seen {name!r}")


def canonical_json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of_json(document: Any) -> str:
    return "sha256:" + hashlib.sha256(canonical_json(document)).hexdigest()


def parse_manifest(content: bytes) -> tuple[Manifest, str]:
    """The manifest in `content` and the package's digest. Raises PackageRefused naming each wrong field."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise PackageRefused(f"expected {MANIFEST} of at most {MAX_MANIFEST_BYTES} bytes, seen {len(content)}")
    try:
        document = json.loads(content)
        return Manifest.model_validate(document), digest_of_json(document)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or MANIFEST}: {fault['msg']}" for fault in error.errors())
        raise PackageRefused(f"expected a {SCHEMA} package; " + "; ".join(faults)) from None
    except (ValueError, RecursionError):
        raise PackageRefused(f"expected JSON in {MANIFEST}") from None


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of the package in `folder` and its digest; the other files are not looked at."""
    path = folder / MANIFEST
    if not path.is_file():
        raise PackageRefused(f"expected a model package with {MANIFEST} in {folder}, seen no such file")
    with path.open("rb") as file:
        return parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))


def go_on() -> None:
    """The `check` of what nothing interrupts: called every so often, and raises where the work should end."""


def verify(folder: Path, expected_digest: str | None, check: Callable[[], None] = go_on) -> Package:
    """Check every file of the package in `folder` against model.json, and model.json against `expected_digest`.

    `expected_digest` None checks the package only against itself: for making and showing one, never for serving.
    Raises PackageRefused with what was expected and seen, and what `check` raises.
    """
    manifest, digest = read_manifest(folder)
    if expected_digest is not None and digest != expected_digest:
        raise PackageRefused(f"expected the model package {expected_digest}, seen {digest} in {folder}")
    for name, entry in manifest.files.items():
        _verify_file(folder, name, entry, check)
    return Package(folder, manifest, digest)


def write_manifest(folder: Path, manifest_fields: dict[str, Any], file_names: list[str]) -> Package:
    """Write model.json for files that lie in `folder` already, and verify the whole.

    `manifest_fields` are the fields of `Manifest` but `files`. Raises PackageRefused as `verify` does.
    """
    files = {
        name: {"sha256": sha256_of_file(folder / name), "size": (folder / name).stat().st_size} for name in file_names
    }
    document = {"schema": SCHEMA, **manifest_fields, "files": files}
    manifest, _ = parse_manifest(json.dumps(document).encode())
    content = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    (folder / MANIFEST).write_bytes(canonical_json(content))
    return verify(folder, None)


def sha256_of_file(path: Path, check: Callable[[], None] = go_on) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check()
            digest.update(chunk)
    return digest.hexdigest()


def _verify_file(folder: Path, name: str, entry: FileEntry, check: Callable[[], None]) -> None:
    path = folder / name
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise PackageRefused(f"expected the file {name} inside the model package {folder}, seen none")
    size = path.stat().st_size
    if size != entry.size:
        raise PackageRefused(f"expected {entry.size} bytes in {path}, seen {size}")
    seen = sha256_of_file(path, check)
    if seen != entry.sha256:
        raise PackageRefused(f"expected sha256 {entry.sha256} of {path}, seen {seen}")
