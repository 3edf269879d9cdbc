"""Asks the predictor over V2 gRPC."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from whimbrel.core.kserve_sdk import InferInput, InferRequest, to_http_parameters
from whimbrel.core.tensors import IMAGES
from whimbrel.transformers.answers import Answer, answer_of
from whimbrel.transformers.grpc_calls import GrpcCalls, array_of


class GrpcInference:
    """One channel to one predictor; `close` it."""

    def __init__(
        self,
        target: str,
        model_name: str,
        *,
        timeout_seconds: float,
        tls: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._calls = GrpcCalls(target, timeout_seconds=timeout_seconds, tls=tls, headers=headers)
        self._model_name = model_name

    async def infer(
        self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], key: str, *, twice: bool = False
    ) -> Answer:
        """Once, `twice` or not: gRPC has one code, UNAVAILABLE, for what was cut off and what was never begun."""
        image = InferInput(IMAGES, list(tensor.shape), "UINT8")
        image.set_data_from_numpy(tensor, binary_data=True)
        request = InferRequest(
            model_name=self._model_name, infer_inputs=[image], request_id=key, parameters=dict(parameters)
        )
        response = await self._calls.infer(request, key)
        outputs = {output.name: array_of(output) for output in response.outputs}
        return answer_of(self._model_name, outputs, to_http_parameters(response.parameters))

    async def close(self) -> None:
        await self._calls.close()
