"""What the network said, as the client's protocol says it."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np

from whimbrel.core.kserve_sdk import InferOutput, InferRequest, InferResponse
from whimbrel.core.tensors import DIGEST_HEADER, MODEL_DIGEST, MODEL_VERSION, VERSION_HEADER
from whimbrel.predictors.tasks.task import Task, Tensors


def v1(task: Task, tensors: Tensors) -> dict[str, Any]:
    return {"predictions": task.predictions(tensors)}


def v2(request: InferRequest, task: Task, tensors: Tensors, model_name: str, version: str) -> InferResponse:
    """In the form that the request asked for: binary tensors, or JSON; raw contents for raw contents over gRPC."""
    outputs = [
        InferOutput(output.name, list(array.shape), output.datatype, np.ascontiguousarray(array))
        for output, array in ((output, tensors[output.name]) for output in task.output_tensors)
    ]
    if request.from_grpc:  # the SDK writes arrays for REST only
        for output in outputs:
            output.set_data_from_numpy(output.data, binary_data=request.use_binary_outputs)
    return InferResponse(
        request.id or uuid.uuid4().hex,
        model_name,
        outputs,
        model_version=version,
        parameters={MODEL_VERSION: version, MODEL_DIGEST: task.description.digest},
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def rendered(
    payload: Any, task: Task, tensors: Tensors, answered: tuple[str, str], response_headers: dict[str, str] | None
) -> dict[str, Any] | InferResponse:
    """In the protocol of the request. `answered`: the name and version of the model that did."""
    name, version = answered
    if isinstance(payload, InferRequest):
        return v2(payload, task, tensors, name, version)
    if response_headers is not None:  # what a V1 answer has no field for
        response_headers.update({VERSION_HEADER: version, DIGEST_HEADER: task.description.digest})
    return v1(task, tensors)
