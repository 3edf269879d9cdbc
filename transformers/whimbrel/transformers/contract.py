"""What another maker's predictor wants and answers: protocol, tensor, scores and labels, from one setting.

For models behind TF-Serving, Triton or any server of KServe's V1 or V2 protocol that knows nothing of presets. In YAML
or JSON, as text or in a file:

    protocol: v2                # v1, v2 or grpc-v2
    input: pixels               # name of the input; v1 may leave it out where the instance is the bare tensor
    output: logits              # name of the output; v1 may leave it out where the prediction is the bare list
    size: [224, 224]            # height, width
    resize: crop                # stretch, crop (with resize_size) or pad
    resize_size: 256
    layout: NCHW                # or NHWC
    dtype: float32              # or float16, uint8
    normalisation: {scale: 0.00392156862745098, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    activation: logits          # or probabilities
    labels_file: labels.txt     # a label a line; or labels: [...]
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whimbrel.core.package import MAX_SIDE_PIXELS, Channels, Preset

MAX_TEXT_BYTES = 4 * 1024 * 1024

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

DATATYPES = {"uint8": "UINT8", "float16": "FP16", "float32": "FP32"}  # numpy's name: V2's


class Normalisation(BaseModel):
    """`(pixel * scale - mean) / std`, pixel from 0 to 255."""

    model_config = _STRICT

    scale: float = Field(default=1 / 255, gt=0, le=1)
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _divides(self) -> Normalisation:
        if min(self.std) <= 0:
            raise ValueError("std: expected three numbers above 0")
        return self


class Contract(BaseModel):
    """The fields of the setting. `model_name` is the predictor's own name of it where that differs from ours."""

    model_config = _STRICT

    protocol: Literal["v1", "v2", "grpc-v2"]
    model_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    input: str | None = Field(default=None, min_length=1, max_length=200)
    output: str | None = Field(default=None, min_length=1, max_length=200)
    binary_tensors: bool = True  # of V2 over REST; false for a server that knows only JSON
    size: tuple[int, int]
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    resize_size: int | None = Field(default=None, ge=1, le=MAX_SIDE_PIXELS)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    layout: Literal["NHWC", "NCHW"]
    dtype: Literal["uint8", "float16", "float32"]
    normalisation: Normalisation | None = None
    activation: Literal["logits", "probabilities"]
    labels: tuple[str, ...] = Field(min_length=1, max_length=100_000)

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        if self.protocol != "v1" and (self.input is None or self.output is None):
            raise ValueError(f"input, output: expected the names of both tensors for the protocol {self.protocol}")
        if (self.dtype == "uint8") != (self.normalisation is None):
            raise ValueError("normalisation: expected with a float dtype, and not with uint8; {} divides by 255")
        if self.dtype == "float16" and self.protocol == "v2" and not self.binary_tensors:
            raise ValueError("binary_tensors: expected true for float16, which V2's JSON has no form for")
        _ = self.preset
        return self

    @cached_property
    def preset(self) -> Preset:
        height, width = self.size
        return Preset(
            height=height,
            width=width,
            resize=self.resize,
            resize_size=self.resize_size,
            interpolation=self.interpolation,
        )

    def tensor(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """(H, W, 3) uint8 -> (1, H, W, 3) or (1, 3, H, W) in the model's dtype, normalised."""
        values: NDArray[Any] = image
        if self.normalisation is not None:
            mean, std = (np.array(part, np.float32) for part in (self.normalisation.mean, self.normalisation.std))
            values = (image.astype(np.float32) * np.float32(self.normalisation.scale) - mean) / std
        if self.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[np.newaxis], dtype=self.dtype)

    def probabilities(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """(C,) scores of one image. Raises ValueError for what cannot be this model's."""
        values = np.asarray(scores, np.float64).reshape(-1)
        if len(values) != len(self.labels):
            raise ValueError(f"expected {len(self.labels)} scores, one a label, seen {len(values)}")
        if not np.isfinite(values).all():
            raise ValueError("expected finite scores, seen NaN or infinity")
        if self.activation == "logits":
            powers = np.exp(values - values.max())
            return np.asarray(powers / powers.sum(), np.float64)
        if values.min() < 0 or values.max() > 1.001:
            raise ValueError(f"expected probabilities, seen {values.min():.3g} to {values.max():.3g}; are they logits?")
        return values


def contract_of(value: Any) -> Any:
    """A validator (mode before): the contract in a text, or in the file that it names. Raises ValueError, one line."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    is_text = "\n" in text or text.startswith(("{", "[")) or ": " in text
    folder = Path() if is_text else Path(text).parent
    try:
        document = yaml.safe_load(text if is_text else _read(Path(text)))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"expected YAML or JSON; {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, dict):
        raise ValueError(f"expected an object in YAML or JSON, or the file of one, seen {type(document).__name__}")
    try:
        return Contract.model_validate(_with_labels(document, folder))
    except ValidationError as error:
        raise ValueError("; ".join(_line(fault) for fault in error.errors())) from None


def _with_labels(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`labels_file`, relative to the contract's own file, read as `labels`."""
    if "labels_file" not in document:
        return document
    rest = {name: value for name, value in document.items() if name != "labels_file"}
    if "labels" in rest or not isinstance(document["labels_file"], str):
        raise ValueError("labels_file: expected the name of a file, and no labels beside it")
    return {**rest, "labels": [line.strip() for line in _read(folder / document["labels_file"]).splitlines() if line]}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise ValueError(f"expected at most {MAX_TEXT_BYTES} bytes in {path}, seen more")
        return content.decode()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"expected UTF-8 in {path}") from None


def _line(fault: Any) -> str:
    where = ".".join(" ".join(str(part).split()) for part in fault["loc"])  # a field's name may hold anything
    message = " ".join(fault["msg"].removeprefix("Value error, ").split())
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message
