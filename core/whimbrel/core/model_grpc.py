"""The V2 gRPC face of a model server: the SDK's servicer behind our error table, limits and logs."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import StatusCode, aio

from whimbrel.core.errors import SettingsError
from whimbrel.core.kserve_sdk import InferenceServicer, add_GRPCInferenceServiceServicer_to_server
from whimbrel.core.logs import log_fields
from whimbrel.core.model_dataplane import FixedRepository, ServingDataPlane, answer_of
from whimbrel.core.tensors import REQUEST_ID_HEADER

_CODES = {
    404: StatusCode.NOT_FOUND,
    409: StatusCode.FAILED_PRECONDITION,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}


def code_of(status: int) -> StatusCode:
    """The gRPC code for an HTTP status of our table: every other 4xx is an argument that will never work."""
    return _CODES.get(status, StatusCode.INVALID_ARGUMENT if status < 500 else StatusCode.INTERNAL)


@asynccontextmanager
async def grpc_server(
    dataplane: ServingDataPlane, *, host: str, port: int, max_message_bytes: int, grace_seconds: Callable[[], float]
) -> AsyncIterator[int]:
    """Serves while entered, yielding the port; leaving it refuses new calls and finishes those in flight.

    `grace_seconds`: how long that may take, asked when it begins.
    """
    server = aio.server(
        interceptors=(_Border(),),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # else two processes could listen on one port
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(InferenceServicer(dataplane, FixedRepository()), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        raise SettingsError(
            f"setting WHIMBREL_GRPC_PORT (--grpc-port): cannot listen on {host}:{port}; choose another"
        ) from None
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(grace_seconds())


class _Border(aio.ServerInterceptor):  # type: ignore[misc]
    """Answers every error by the table, and binds the request id to the logs. All methods are unary."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        method = await continuation(handler_call_details)
        if method is None:
            return None
        metadata = dict(handler_call_details.invocation_metadata)
        request_id = str(metadata.get(REQUEST_ID_HEADER) or uuid.uuid4().hex)

        async def answered(request: Any, context: Any) -> Any:
            with log_fields(request_id=request_id):
                try:
                    return await method.unary_unary(request, context)
                except Exception as error:
                    await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(
            answered, request_deserializer=method.request_deserializer, response_serializer=method.response_serializer
        )


async def _abort(context: Any, error: Exception) -> None:
    answer = answer_of(error)
    await context.abort(code_of(answer.status), json.dumps(answer.body), tuple(answer.headers.items()))
