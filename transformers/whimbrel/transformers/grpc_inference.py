"""Asks the predictor over V2 gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from whimbrel.core import tracing
from whimbrel.core.errors import Unavailable
from whimbrel.core.kserve_sdk import (
    GRPCInferenceServiceStub,
    InferInput,
    InferRequest,
    InferResponse,
    to_http_parameters,
)
from whimbrel.core.tensors import IMAGES, REQUEST_ID_HEADER
from whimbrel.transformers.answers import Answer, answer_of, error_of

MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # the largest preset, 4096 x 4096, and room

# What `whimbrel.core.model_grpc.code_of` and gRPC itself say, as an HTTP status of our table.
_STATUS_OF_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


class GrpcInference:
    """One channel to one predictor; `close` it."""

    def __init__(self, target: str, model_name: str, *, timeout_seconds: float, tls: bool) -> None:
        self._target, self._model_name, self._timeout_seconds, self._tls = target, model_name, timeout_seconds, tls

    async def infer(self, tensor: NDArray[np.uint8], parameters: Mapping[str, str | int], request_id: str) -> Answer:
        image = InferInput(IMAGES, list(tensor.shape), "UINT8")
        image.set_data_from_numpy(tensor, binary_data=True)
        request = InferRequest(
            model_name=self._model_name, infer_inputs=[image], request_id=request_id, parameters=dict(parameters)
        )
        metadata = ((REQUEST_ID_HEADER, request_id), *tracing.current().items())
        try:
            message = await GRPCInferenceServiceStub(self._channel).ModelInfer(
                request.to_grpc(), timeout=self._timeout_seconds, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        response = InferResponse.from_grpc(message)
        outputs = {output.name: _array(output) for output in response.outputs}
        return answer_of(self._model_name, outputs, to_http_parameters(response.parameters))

    async def close(self) -> None:
        await self._channel.close()

    @cached_property
    def _channel(self) -> Any:
        """Made inside the event loop that uses it."""
        options = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.enable_http_proxy", 0),
        ]
        if self._tls:
            return grpc.aio.secure_channel(self._target, grpc.ssl_channel_credentials(), options=options)
        return grpc.aio.insecure_channel(self._target, options=options)

    def _error(self, error: Any) -> Exception:
        retry_after = dict(error.trailing_metadata() or ()).get("retry-after")
        status = _STATUS_OF_CODE.get(error.code())
        if status is None:
            return Unavailable(
                f"the predictor at {self._target} does not answer: {error.code().name} {error.details()}",
                retry_after_seconds=float(retry_after) if retry_after else 2.0,
            )
        return error_of(status, error.details() or "", retry_after)


def _array(output: Any) -> NDArray[Any] | None:
    try:
        array: NDArray[Any] = output.as_numpy()
    except Exception:  # the SDK's own, for a tensor that contradicts itself; `answer_of` says which is missing
        return None
    return array
