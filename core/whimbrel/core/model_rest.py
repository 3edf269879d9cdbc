"""The REST face of a model server: KServe's endpoints and extra routes under one set of limits and one error table."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whimbrel.core import metrics, v2_rest
from whimbrel.core.budget import Budget
from whimbrel.core.errors import DeadlinePassed, InputRefused, PayloadTooLarge, WhimbrelError
from whimbrel.core.kserve_sdk import ServerNotLive, register_v1_endpoints, register_v2_endpoints
from whimbrel.core.logs import log_fields
from whimbrel.core.model_dataplane import FixedRepository, Serving, ServingDataPlane, answer_of
from whimbrel.core.tensors import REQUEST_ID_HEADER


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Of one request's body."""

    max_bytes: int
    max_seconds: float


def rest_application(
    dataplane: ServingDataPlane, serving: Serving, routes: Sequence[BaseRoute], limits: BodyLimits, bodies: Budget
) -> ASGIApp:
    """An ASGI application: `routes`, `/metrics`, then KServe's V1 and V2 endpoints."""
    app = FastAPI(title="whimbrel", docs_url=None, redoc_url=None, openapi_url=None)
    # The first match wins: this infer keeps binary tensors binary, where the SDK's makes Python lists of them, and
    # this predict answers without the SDK's deprecated response class.
    app.router.routes.extend(
        [
            *routes,
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/v1/models/{model_name}:predict", _predict_endpoint(dataplane), methods=["POST"]),
            Route("/v2/models/{model_name}/infer", _infer_endpoint(dataplane), methods=["POST"]),
        ]
    )
    app.add_api_route("/", _root_endpoint(dataplane), methods=["GET"])
    register_v1_endpoints(app, dataplane, FixedRepository())
    register_v2_endpoints(app, dataplane, FixedRepository())
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return _Border(app, serving, limits, bodies)


def _infer_endpoint(dataplane: ServingDataPlane) -> Callable[[Request], Awaitable[Response]]:
    async def infer(request: Request) -> Response:
        model_name, headers = request.path_params["model_name"], dict(request.headers)
        await dataplane.get_model(model_name)
        infer_request = await v2_rest.parse_request(await request.body(), headers, model_name)
        answer, answer_headers = await dataplane.infer(model_name, infer_request, headers)
        return v2_rest.render_response(answer, answer_headers)

    return infer


def _predict_endpoint(dataplane: ServingDataPlane) -> Callable[[Request], Awaitable[Response]]:
    async def predict(request: Request) -> Response:
        model_name, headers = request.path_params["model_name"], dict(request.headers)
        await dataplane.get_model(model_name)
        payload, attributes = dataplane.decode(await request.body(), headers)
        answer, answer_headers = await dataplane.infer(model_name, payload, headers)
        answer, encoding_headers = dataplane.encode(model_name, answer, headers, attributes)
        content = answer if isinstance(answer, bytes | str) else orjson.dumps(answer)
        return Response(content, headers={"content-type": "application/json", **answer_headers, **encoding_headers})

    return predict


def _root_endpoint(dataplane: ServingDataPlane) -> Callable[[], Awaitable[dict[str, str]]]:
    async def live() -> dict[str, str]:
        found = await dataplane.live()
        if found["status"] != "alive":
            raise ServerNotLive
        return found

    return live


async def _metrics(_: Request) -> Response:
    content, content_type = metrics.exposition()
    return Response(content, headers={"content-type": content_type})


async def _answer(_: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    answer = answer_of(error)
    return JSONResponse(answer.body, answer.status, answer.headers)


async def _answer_http(_: Request, error: Exception) -> Response:
    """What the router refuses: no such path, or not by this method."""
    assert isinstance(error, HTTPException)  # noqa: S101
    body = {"error": error.detail, "reason": HTTPStatus(error.status_code).phrase.title().replace(" ", "")}
    return JSONResponse(body, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    return await _answer(request, InputRefused(f"expected another request, seen: {error}"))


class _Border:
    """Around every request: its id in the logs and the answer, the limits of its body, its end when the client left.

    `bodies` is what all bodies may hold: nothing of one is read before there is room for it.
    """

    def __init__(self, app: ASGIApp, serving: Serving, limits: BodyLimits, bodies: Budget) -> None:
        self._app, self._serving, self._limits, self._bodies = app, serving, limits, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID_HEADER) or uuid.uuid4().hex
        exchange = _Exchange(receive, send, request_id, self._serving, self._limits)
        with log_fields(request_id=request_id):
            try:
                taken = await self._room_for(headers, exchange)
            except WhimbrelError as error:
                refused = await _answer(Request(scope), error)
                await refused(scope, receive, exchange.send)
                return
            try:
                await self._answered(scope, exchange)
            finally:
                self._bodies.give_back(taken)

    async def _room_for(self, headers: Headers, exchange: _Exchange) -> int:
        """Bytes taken for the body, at most as many as it may have. Raises PayloadTooLarge and Unavailable."""
        unannounced = self._limits.max_bytes if "transfer-encoding" in headers else 0
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() else unannounced
        if size > self._limits.max_bytes:
            raise exchange.too_large()
        return await self._bodies.take(size) if size else 0  # probes wait for nobody

    async def _answered(self, scope: Scope, exchange: _Exchange) -> None:
        """Run the application; the errors that it lets out were answered by `_answer` already."""
        watch = asyncio.create_task(exchange.cancel_when_gone(asyncio.current_task()))
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.gone.is_set():
                raise
        except Exception:
            if not exchange.started:
                raise
        finally:
            watch.cancel()


class _Exchange:
    """One request's messages, counted on the way in and marked on the way out."""

    def __init__(self, receive: Receive, send: Send, request_id: str, serving: Serving, limits: BodyLimits) -> None:
        self._receive, self._send, self._request_id, self._serving = receive, send, request_id, serving
        self._limits, self._body_bytes, self._deadline = limits, 0, 0.0
        self._read, self.gone = asyncio.Event(), asyncio.Event()
        self.started = self._finished = False

    def too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"expected a request body of at most {self._limits.max_bytes} bytes, seen more")

    async def receive(self) -> Message:
        if self._read.is_set():
            await self.gone.wait()
            return {"type": "http.disconnect"}
        message = await self._received()
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self._limits.max_bytes:
            raise self.too_large()
        if not message.get("more_body", False):
            self._read.set()
        return message

    async def _received(self) -> Message:
        self._deadline = self._deadline or asyncio.get_running_loop().time() + self._limits.max_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise DeadlinePassed(
                f"expected a request body within {self._limits.max_seconds:g} s, seen {self._body_bytes} bytes of it"
            ) from None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self._request_id
            if self._serving.draining:
                headers["connection"] = "close"
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True
        await self._send(message)

    async def cancel_when_gone(self, request: asyncio.Task[Any] | None) -> None:
        """Once the body is read, the next message is the client's leaving, or comes with the end of the answer."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        if request is not None and not self._finished:
            request.cancel()
