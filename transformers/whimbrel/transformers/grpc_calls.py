"""One gRPC channel to one predictor: what does not answer or answers an error is an error of ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import grpc

from whimbrel.core.errors import Unavailable
from whimbrel.core.kserve_sdk import GRPCInferenceServiceStub, InferRequest, InferResponse
from whimbrel.transformers.answers import error_of
from whimbrel.transformers.request_headers import request_headers

# The largest preset, 4096 x 4096, as float32, and room.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024

# What `whimbrel.core.model_grpc.code_of` and gRPC itself say, as an HTTP status of our table.
_STATUS_OF_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


class GrpcCalls:
    """`close` it."""

    def __init__(
        self, target: str, *, timeout_seconds: float, tls: bool, headers: Mapping[str, str] | None = None
    ) -> None:
        self._target, self._timeout_seconds, self._tls, self._headers = target, timeout_seconds, tls, headers or {}

    async def infer(self, request: InferRequest, key: str) -> InferResponse:
        """Raises the predictor's error as the table's, or Unavailable."""
        metadata = tuple((request_headers(key) | dict(self._headers)).items())
        try:
            message = await GRPCInferenceServiceStub(self._channel).ModelInfer(
                request.to_grpc(), timeout=self._timeout_seconds, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return InferResponse.from_grpc(message)

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


def array_of(output: Any) -> Any:
    """The output as an array; None for one that contradicts itself, which the SDK meets with errors of its own."""
    try:
        return output.as_numpy()
    except Exception:
        return None
