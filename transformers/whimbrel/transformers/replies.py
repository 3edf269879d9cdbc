"""Answers as a client's protocol says them: V1 JSON in one of several shapes, or V2 tensors; no I/O."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.kserve_sdk import InferOutput, InferRequest, InferResponse
from whimbrel.core.tensors import DIGEST_HEADER, INDICES, MODEL_DIGEST, MODEL_VERSION, NAMES, SCORES, VERSION_HEADER
from whimbrel.transformers.answers import Answer

# Of each image, as a split between two versions may answer the images of one request by both.
MODEL_VERSIONS = "model_versions"
MODEL_DIGESTS = "model_digests"

# V2 datatype and number of dimensions.
V2_OUTPUTS: Mapping[str, tuple[str, int]] = {
    INDICES: ("INT64", 2),
    SCORES: ("FP32", 2),
    NAMES: ("BYTES", 2),
    MODEL_VERSIONS: ("BYTES", 1),
    MODEL_DIGESTS: ("BYTES", 1),
}

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
    """`indices`, `scores`, `names` (N, k) and which model answered each (N), in the form that the request asked for.

    A row with fewer than k labels is filled with index -1, score 0 and an empty name. The parameters name the model
    where one version answered all images.
    """
    outputs = [
        InferOutput(name, list(array.shape), V2_OUTPUTS[name][0], array) for name, array in _tensors(answers).items()
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


def _tensors(answers: Sequence[Answer]) -> dict[str, NDArray[Any]]:
    k = max(len(answer.predictions) for answer in answers)
    shape = (len(answers), k)
    indices, scores = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    names = np.full(shape, "", dtype=np.object_)
    for row, answer in enumerate(answers):
        for column, prediction in enumerate(answer.predictions):
            indices[row, column], scores[row, column] = prediction.index, prediction.score
            names[row, column] = prediction.label
    versions = np.array([answer.model.version for answer in answers], dtype=np.object_)
    digests = np.array([answer.model.digest for answer in answers], dtype=np.object_)
    return {INDICES: indices, SCORES: scores, NAMES: names, MODEL_VERSIONS: versions, MODEL_DIGESTS: digests}
