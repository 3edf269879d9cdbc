"""What a predictor answers, read the same way from every protocol: what it found and by which model, or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import (
    CutOff,
    InputRefused,
    NotFound,
    PackageRefused,
    PayloadTooLarge,
    PresetMismatch,
    QuotaExceeded,
    TryAgain,
    Unavailable,
    UndecodableImage,
    UnfetchableUrl,
    UnsupportedImage,
    WhimbrelError,
)
from whimbrel.core.results import Prediction, ResultModel
from whimbrel.core.tensors import (
    BOXES,
    CLASSIFICATION,
    COUNTS,
    DETECTION,
    INDICES,
    KEYPOINTS,
    LABELS,
    MODEL_DIGEST,
    MODEL_VERSION,
    NAMES,
    OUTPUTS_OF_TASK,
    POSE,
    SCORES,
)
from whimbrel.transformers.placement import Placement

_ERROR_OF_STATUS: Mapping[int, type[WhimbrelError]] = {
    400: InputRefused,
    404: NotFound,
    409: TryAgain,
    413: PayloadTooLarge,
    415: UnsupportedImage,
    422: UndecodableImage,
    429: QuotaExceeded,
    502: CutOff,
}
_REFUSALS = frozenset(
    kind.__name__ for kind in (InputRefused, UnsupportedImage, UndecodableImage, UnfetchableUrl, PayloadTooLarge)
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The labels or objects of one image, best first, and the model version that gave them. `seconds`: from the request
    that it answered, without those before that another version met."""

    predictions: tuple[Prediction, ...]
    model: ResultModel
    task: str = CLASSIFICATION
    seconds: float = 0.0

    def told_in(self, placement: Placement) -> Answer:
        """With boxes and keypoints, which are the input's, in pixels of the picture."""
        placed = (placement.prediction(each) for each in self.predictions)
        return replace(self, predictions=tuple(each for each in placed if each is not None))


@dataclass(frozen=True, slots=True)
class Named:
    """The version that a request asks, at no share of the traffic even. `tag`: of the revision that has it, where
    versions are revisions of their own."""

    version: str
    tag: str | None = None


class Inference(Protocol):
    """One way to ask a predictor. `tensor` is (1, H, W, 3) uint8 RGB; `parameters` are the request's."""

    async def infer(
        self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], key: str, *, twice: bool = False
    ) -> Answer:
        """`key` becomes the id of the V2 request. `twice`: what the end of the predictor's process cut off is asked
        once more, where the protocol can tell.

        Raises PresetMismatch, another error of the table as the predictor gave it, or Unavailable.
        """

    async def close(self) -> None: ...


def answer_of(
    model_name: str, outputs: Mapping[str, NDArray[Any] | None], parameters: Mapping[str, Any] | None
) -> Answer:
    """The first image's answer. Raises Unavailable when the predictor speaks another language than ours."""
    task = task_of(outputs)
    try:
        predictions = _labels(outputs) if task == CLASSIFICATION else _objects(outputs)
        stated = parameters or {}
        model = ResultModel(name=model_name, version=str(stated[MODEL_VERSION]), digest=str(stated[MODEL_DIGEST]))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Unavailable(
            f"expected outputs {', '.join(output.name for output in OUTPUTS_OF_TASK[task])} and parameters"
            f" {MODEL_VERSION}, {MODEL_DIGEST} from the predictor of {model_name!r}; {type(error).__name__}:"
            f" {str(error)[:200]}"
        ) from None
    return Answer(predictions, model, task)


def task_of(outputs: Mapping[str, Any]) -> str:
    """A task of ours by the names of its outputs, which a task of a user's own may have as well."""
    if BOXES not in outputs:
        return CLASSIFICATION
    return POSE if KEYPOINTS in outputs else DETECTION


def error_of(status: int, body: bytes | str, retry_after: str | None) -> WhimbrelError:
    """The predictor's error as ours: the same row of the table, so that the status passes through.

    What is the operator's to mend (401, 403, a model that was refused) or any server's fault (5xx) is 503: the image
    is not at fault. 502 stays, for whoever compares two versions counts what each one's end cut off.
    """
    content = _json_object(body)
    message = f"predictor: {content.get('error') or _excerpt(body) or f'status {status}'}"
    if status == PresetMismatch.status and "preset" in content:
        return PresetMismatch(message, preset=content["preset"], model_digest=str(content.get("model_digest", "")))
    error = _kind_of(status, content.get("reason"))(message, retry_after_seconds=_seconds(retry_after))
    if isinstance(content.get("model_digest"), str):
        error.model_digest = content["model_digest"]
    return error


def _kind_of(status: int, reason: Any) -> type[WhimbrelError]:
    """422 alone does not say whose fault it is; over gRPC, nor does 400."""
    kind = _ERROR_OF_STATUS.get(status, Unavailable)
    if not issubclass(kind, InputRefused) or str(reason) in _REFUSALS:
        return kind
    return Unavailable if status == UndecodableImage.status or reason == PackageRefused.__name__ else kind


def _labels(outputs: Mapping[str, NDArray[Any] | None]) -> tuple[Prediction, ...]:
    rows = (_first_row(outputs[name], 2) for name in (INDICES, SCORES, NAMES))
    return tuple(
        Prediction(label=_text(name), index=int(index), score=float(score))
        for index, score, name in zip(*rows, strict=True)
    )


def _objects(outputs: Mapping[str, NDArray[Any] | None]) -> tuple[Prediction, ...]:
    """Boxes and keypoints in the input's pixels."""
    count = int(_first_row(outputs[COUNTS], 1))
    rows = [_first_row(outputs[name], 2)[:count] for name in (LABELS, SCORES, NAMES)]
    boxes = _first_row(outputs[BOXES], 3)[:count]
    points = _first_row(outputs[KEYPOINTS], 4)[:count] if KEYPOINTS in outputs else [None] * count
    return tuple(
        Prediction(
            label=_text(name),
            index=int(index),
            score=float(score),
            box=(left, top, right - left, bottom - top),
            keypoints=keypoints,
        )
        for index, score, name, (left, top, right, bottom), keypoints in zip(*rows, boxes, points, strict=True)
    )


def _first_row(output: NDArray[Any] | None, dimensions: int) -> Any:
    if output is None or output.ndim != dimensions or len(output) < 1:
        seen = None if output is None else output.shape
        raise ValueError(f"an output of shape {seen}, expected {dimensions} dimensions")
    return output[0].tolist()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _json_object(body: bytes | str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _excerpt(body: bytes | str) -> str:
    return body[:200].decode(errors="replace") if isinstance(body, bytes) else body[:200]


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdecimal() else None
