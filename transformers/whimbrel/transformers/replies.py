"""Answers as a client's protocol says them: V1 JSON in one of several shapes, or V2 tensors; no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import Unavailable
from whimbrel.core.kserve_sdk import InferOutput, InferRequest, InferResponse
from whimbrel.core.results import Prediction
from whimbrel.core.tensors import (
    BOXES,
    CLASSIFICATION,
    COUNTS,
    DIGEST_HEADER,
    INDICES,
    KEYPOINTS,
    LABELS,
    MODEL_DIGEST,
    MODEL_VERSION,
    NAMES,
    OUTPUTS_OF_TASK,
    POSE,
    SCORES,
    VERSION_HEADER,
    OutputTensor,
)
from whimbrel.transformers.answers import Answer

# Of each image, as a split between two versions may answer the images of one request by both.
MODEL_VERSIONS = "model_versions"
MODEL_DIGESTS = "model_digests"

_NO_BOX = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ReplyCodec:
    """One shape of a V1 answer. `render` is given the answers in the request's order, and the request's id."""

    render: Callable[[Sequence[Answer], str], dict[str, Any]]
    max_images: int | None = None


def _predictions(answers: Sequence[Answer], _: str) -> dict[str, Any]:
    return {
        "predictions": [
            [prediction.model_dump(exclude_none=True) for prediction in answer.predictions] for answer in answers
        ]
    }


def _data_uid(answers: Sequence[Answer], request_id: str) -> dict[str, Any]:
    """A label without a box, as of a classification, has the box 0, 0, 0, 0."""
    rows = [[label.label, label.score, list(label.box or _NO_BOX)] for label in answers[0].predictions]
    return {"data": rows, "uid": request_id, "success": True}


# By the setting `reply_format`. To add a shape is to add a line here and a name to the setting.
CODECS: Mapping[str, ReplyCodec] = {
    "predictions": ReplyCodec(_predictions),
    "data-uid": ReplyCodec(_data_uid, max_images=1),
}


def v2(request: InferRequest, answers: Sequence[Answer], model_name: str) -> InferResponse:
    """The task's outputs and which model answered each image (N), in the form that the request asked for. Boxes and
    keypoints are in pixels of the pictures as they came.

    A row with fewer than k labels is filled with index -1, score 0 and an empty name, one with fewer objects alike. The
    parameters name the model where one version answered all images. Raises Unavailable where versions of different
    tasks did.
    """
    task = _task_of(answers)
    tensors = _tensors(answers, task)
    outputs = [
        InferOutput(output.name, list(tensors[output.name].shape), output.datatype, tensors[output.name])
        for output in output_tensors(task)
    ]
    if request.from_grpc:  # the SDK writes arrays for REST only
        for output in outputs:
            output.set_data_from_numpy(output.data, binary_data=request.use_binary_outputs)
    models = {answer.model.digest: answer.model for answer in answers}
    only = next(iter(models.values())) if len(models) == 1 else None
    return InferResponse(
        request.id or uuid.uuid4().hex,
        model_name,
        outputs,
        model_version=only.version if only else None,
        parameters={MODEL_VERSION: only.version, MODEL_DIGEST: only.digest} if only else None,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def model_headers(answers: Sequence[Answer]) -> dict[str, str]:
    """What a V1 answer has no field for; several versions are listed with commas."""
    models = {answer.model.digest: answer.model for answer in answers}
    return {
        VERSION_HEADER: ", ".join(model.version for model in models.values()),
        DIGEST_HEADER: ", ".join(models),
    }


def output_tensors(task: str) -> tuple[OutputTensor, ...]:
    """What `v2` answers of a task: its outputs, and of each image the model that answered it."""
    models = (OutputTensor(name, "BYTES", (-1,)) for name in (MODEL_VERSIONS, MODEL_DIGESTS))
    return (*OUTPUTS_OF_TASK[task], *models)


def _task_of(answers: Sequence[Answer]) -> str:
    tasks = {answer.task for answer in answers}
    if len(tasks) > 1:
        raise Unavailable(
            f"expected versions of one task behind a request, seen {', '.join(sorted(tasks))}; send its images singly",
            retry_after_seconds=1,
        )
    return tasks.pop()


def _tensors(answers: Sequence[Answer], task: str) -> dict[str, NDArray[Any]]:
    rows = [answer.predictions for answer in answers]
    shape = (len(rows), max(map(len, rows)))
    tensors = {
        INDICES if task == CLASSIFICATION else LABELS: _filled(shape, -1, np.int64, rows, lambda each: each.index),
        SCORES: _filled(shape, 0, np.float32, rows, lambda each: each.score),
        NAMES: _filled(shape, "", np.object_, rows, lambda each: each.label),
        MODEL_VERSIONS: np.array([answer.model.version for answer in answers], dtype=np.object_),
        MODEL_DIGESTS: np.array([answer.model.digest for answer in answers], dtype=np.object_),
    }
    if task != CLASSIFICATION:
        tensors[COUNTS] = np.array([len(row) for row in rows], np.int64)
        tensors[BOXES] = _filled((*shape, 4), 0, np.float32, rows, _corners)
    if task == POSE:
        most = max((len(each.keypoints or ()) for row in rows for each in row), default=0)
        tensors[KEYPOINTS] = _filled((*shape, most, 3), 0, np.float32, rows, lambda each: each.keypoints)
    return tensors


def _filled(
    shape: tuple[int, ...],
    rest: int | str,
    dtype: Any,
    rows: Sequence[Sequence[Prediction]],
    value: Callable[[Prediction], Any],
) -> NDArray[Any]:
    filled = np.full(shape, rest, dtype)
    for row, predictions in enumerate(rows):
        for column, prediction in enumerate(predictions):
            filled[row, column] = value(prediction)
    return filled


def _corners(prediction: Prediction) -> tuple[float, float, float, float]:
    x, y, width, height = prediction.box or _NO_BOX
    return x, y, x + width, y + height
