"""What the network said, as the client's protocol says it: with the labels of the package that answered."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.errors import ModelFailed
from whimbrel.core.kserve_sdk import InferOutput, InferRequest, InferResponse
from whimbrel.core.tensors import DIGEST_HEADER, INDICES, MODEL_DIGEST, MODEL_VERSION, NAMES, SCORES, VERSION_HEADER
from whimbrel.predictors.network import Description, Outputs

Tensors = dict[str, NDArray[Any]]
DATATYPES = {INDICES: "INT64", SCORES: "FP32", NAMES: "BYTES"}


def named(outputs: Outputs, top_k: int, description: Description) -> Tensors:
    """`indices`, `scores` and `names`, each (N, top_k). Raises ModelFailed for scores that are no numbers."""
    indices, scores = outputs[INDICES][:, :top_k], outputs[SCORES][:, :top_k]
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        where = f" for images[{int(np.argmin(finite))}]" if len(scores) > 1 else ""
        raise ModelFailed(f"expected finite scores of the model {description.digest}{where}, seen NaN or infinity")
    names = np.array(description.labels, dtype=np.object_)[indices]
    return {INDICES: indices.astype(np.int64), SCORES: scores.astype(np.float32), NAMES: names}


def v1(tensors: Tensors) -> dict[str, Any]:
    rows = zip(tensors[NAMES].tolist(), tensors[INDICES].tolist(), tensors[SCORES].tolist(), strict=True)
    return {
        "predictions": [
            [
                {"label": label, "index": index, "score": score}
                for label, index, score in zip(labels, indices, scores, strict=True)
            ]
            for labels, indices, scores in rows
        ]
    }


def v2(request: InferRequest, tensors: Tensors, model_name: str, version: str, digest: str) -> InferResponse:
    """In the form that the request asked for: binary tensors, or JSON; raw contents for raw contents over gRPC."""
    outputs = [
        InferOutput(name, list(array.shape), DATATYPES[name], np.ascontiguousarray(array))
        for name, array in tensors.items()
    ]
    if request.from_grpc:  # the SDK writes arrays for REST only
        for output in outputs:
            output.set_data_from_numpy(output.data, binary_data=request.use_binary_outputs)
    return InferResponse(
        request.id or uuid.uuid4().hex,
        model_name,
        outputs,
        model_version=version,
        parameters={MODEL_VERSION: version, MODEL_DIGEST: digest},
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def headers(version: str, digest: str) -> dict[str, str]:
    """What a V1 answer has no field for."""
    return {VERSION_HEADER: version, DIGEST_HEADER: digest}
