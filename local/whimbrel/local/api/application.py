"""The API over HTTP: who asks, what for, and the answer or its refusal as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from whimbrel.local import loopback
from whimbrel.local.api import about, bodies, discovery, openapi_v2, options, patches, pod_logs, tables
from whimbrel.local.api.access import Access
from whimbrel.local.api.admission import Judge
from whimbrel.local.api.faults import (
    ApiFault,
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from whimbrel.local.api.kinds import POD
from whimbrel.local.api.metadata import Object
from whimbrel.local.api.paths import Target, parse
from whimbrel.local.api.pod_logs import PodLogs
from whimbrel.local.api.resources import Answer, Resources
from whimbrel.local.api.scale import SCALE, SCALED
from whimbrel.local.api.settings import ApiSettings
from whimbrel.local.api.storage import Storage
from whimbrel.local.api.watch_stream import WatchStream
from whimbrel.local.api.watching import Watch

logger = logging.getLogger(__name__)

_ALIVE = ("/healthz", "/livez", "/readyz")


class Api:
    """The ASGI application. `judge` is asked about every object that a user writes, `logs` where a pod writes."""

    def __init__(
        self,
        storage: Storage,
        access: Access,
        settings: ApiSettings,
        *,
        judge: Judge,
        logs: PodLogs,
    ) -> None:
        self._storage, self._access, self._settings, self._logs = storage, access, settings, logs
        self._resources = Resources(storage, judge)
        self._in_flight = self._unanswered = 0
        self._streams: dict[int, Watch | None] = {}
        self._stopping = False

    def stop(self) -> None:
        """End every watch and followed log, so that clients come back to the next server."""
        self._stopping = True
        for place in [*self._streams.values()]:
            if place is not None:
                place.stop()

    @property
    def is_idle(self) -> bool:
        return self._unanswered == 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        self._unanswered += 1
        try:
            response = await self._answered(request)
            await response(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._unanswered -= 1
            self._streams.pop(id(request), None)

    async def _answered(self, request: Request) -> Response:
        try:
            self._check(request)
            with self._counted():
                return await self._routed(request)
        except ApiFault as fault:
            return bodies.json_response(fault.body(), fault.status, headers=fault.headers())
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("%s %s", request.method, request.url.path)
            return bodies.json_response(ApiFault("the API server failed; its log says why").body(), 500)

    def _check(self, request: Request) -> None:
        """Raises Forbidden for another host name, Unauthorized without the token."""
        if refusal := loopback.refusal(request.headers.get("host", "")):
            raise Forbidden(refusal)
        if request.url.path in _ALIVE:
            return
        if not self._access.allows(request.headers.get("authorization", "")):
            raise Unauthorized("expected the token of the kubeconfig that 'whimbrel up' wrote, seen none or another")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._in_flight >= self._settings.api_max_in_flight:
            raise TooManyRequests("too many requests at once", retry_after_seconds=1)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _routed(self, request: Request) -> Response:
        path = request.url.path
        if path in _ALIVE:
            return PlainTextResponse("ok")
        target = parse(path)
        if target is None:
            return await self._about(request, path)
        if target.subresource == "log" and target.kind is POD:
            return await self._log(request, target)
        if target.subresource == "scale" and target.kind in SCALED:
            return await self._scale(request, target)
        if target.subresource not in (None, "status"):
            raise NotFound(f"{target.subresource} of {target.kind.resource} is not served on one machine")
        verb = _VERBS.get(request.method)
        if verb is None:
            raise MethodNotAllowed(f"expected one of {', '.join(_VERBS)}, seen {request.method}")
        return await verb(self, request, target)

    async def _about(self, request: Request, path: str) -> Response:
        """What is not an object: discovery, OpenAPI, reviews of one's own rights."""
        if request.method == "POST":
            found = discovery.review(path)
        elif path.strip("/") == "openapi/v2" and openapi_v2.ASKED_FOR in request.headers.get("accept", ""):
            return Response(openapi_v2.as_protobuf(), media_type=openapi_v2.MEDIA_TYPE)
        elif request.method in ("GET", "HEAD"):
            found = await asyncio.to_thread(about.document, path)
        else:
            found = None
        if found is None:
            raise NotFound(f"the server could not find the requested resource: {path[:200]}")
        return bodies.json_response(found, 201 if request.method == "POST" else 200)

    async def _read(self, request: Request, target: Target) -> Response:
        form = _form(request)
        wanted = options.list_options(request.query_params, target.name)
        if wanted.watch:
            return await self._watched(
                request,
                partial(
                    WatchStream,
                    self._storage,
                    target,
                    form,
                    wanted,
                    seconds=self._settings.api_watch_seconds,
                    bookmarks=self._settings.api_bookmark_seconds,
                ),
            )
        if target.name is not None:
            return await _on_thread(self._resources.get, target, form)
        return await _on_thread(self._resources.list, target, form, wanted)

    async def _watched(self, request: Request, start: Callable[[], WatchStream]) -> Response:
        self._count_stream(request)
        stream = await asyncio.to_thread(start)
        self._streams[id(request)] = stream.place
        if self._stopping:
            stream.place.stop()
        return StreamingResponse(stream.lines(), media_type="application/json")

    def _count_stream(self, request: Request) -> None:
        """Until the request is answered, which takes as long as its client reads. Raises TooManyRequests."""
        if len(self._streams) >= self._settings.api_max_watches:
            most = f"expected at most {self._settings.api_max_watches} watches and followed logs"
            raise TooManyRequests(most, retry_after_seconds=5)
        self._streams[id(request)] = None

    async def _create(self, request: Request, target: Target) -> Response:
        given, wanted, form = await self._written(request)
        return await _on_thread(self._resources.create, target, form, given, wanted)

    async def _replace(self, request: Request, target: Target) -> Response:
        given, wanted, form = await self._written(request)
        return await _on_thread(self._resources.replace, target, form, given, wanted)

    async def _patch(self, request: Request, target: Target) -> Response:
        form_of_patch = bodies.media_type(request)
        given, wanted, form = await self._written(request)
        if form_of_patch == patches.APPLY:
            if not request.query_params.get("fieldManager"):
                raise BadRequest("fieldManager: expected a name, as server-side apply needs one")
            return await _on_thread(self._resources.apply, target, form, given, wanted)
        return await _on_thread(self._resources.patch, target, form, form_of_patch, given, wanted)

    async def _scale(self, request: Request, target: Target) -> Response:
        if request.method == "GET":
            return await _on_thread(self._resources.scale, target)
        if request.method not in ("PUT", "PATCH"):
            raise MethodNotAllowed(f"expected one of GET, PUT, PATCH, seen {request.method}")
        form_of_patch = bodies.media_type(request)
        given, wanted, _ = await self._written(request)

        def change(scale: Object) -> Object:
            return given if request.method == "PUT" else patches.applied(SCALE, form_of_patch, scale, given)

        return await _on_thread(self._resources.rescale, target, change, wanted)

    async def _delete(self, request: Request, target: Target) -> Response:
        body = await bodies.read(request, self._settings.api_max_body_bytes)
        wanted = options.delete_options(request.query_params, body if isinstance(body, dict) else {})
        if target.name is not None:
            return await _on_thread(self._resources.delete, target, wanted)
        selected = options.list_options(request.query_params, None)
        return await _on_thread(self._resources.delete_all, target, selected, wanted)

    async def _log(self, request: Request, target: Target) -> Response:
        wanted = pod_logs.log_options(request.query_params)
        namespace, name = target.namespace or "", target.name or ""
        pod = await asyncio.to_thread(self._storage.get, POD, namespace, name)
        container = pod_logs.container_of(pod, wanted.container)
        part = self._logs(namespace, name, container, previous=wanted.previous)
        self._count_stream(request)
        file, left = await asyncio.to_thread(pod_logs.opened, part, name, wanted)
        goes_on = partial(self._is_written, namespace, name, pod["metadata"]["uid"])
        lines = pod_logs.lines(file, left, follow=wanted.follow, goes_on=goes_on)
        return StreamingResponse(lines, media_type="text/plain")

    def _is_written(self, namespace: str, name: str, uid: str) -> bool:
        """Whether this very pod is still there and has not ended."""
        try:
            pod = self._storage.get(POD, namespace, name)
        except NotFound:
            return False
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return not self._stopping and not ended and bool(pod["metadata"]["uid"] == uid)

    async def _written(self, request: Request) -> tuple[Any, options.WriteOptions, tables.Form]:
        wanted = options.write_options(request.query_params, request.headers.get("user-agent", ""))
        return await bodies.read(request, self._settings.api_max_body_bytes), wanted, _form(request)


_VERBS: dict[str, Callable[[Api, Request, Target], Awaitable[Response]]] = {
    "GET": Api._read,
    "POST": Api._create,
    "PUT": Api._replace,
    "PATCH": Api._patch,
    "DELETE": Api._delete,
}


def _form(request: Request) -> tables.Form:
    return tables.negotiated(request.headers.get("accept", ""), request.query_params.get("includeObject", ""))


async def _on_thread(verb: Callable[..., Answer], *arguments: Any) -> Response:
    """Writing a long answer takes its time too."""
    return await asyncio.to_thread(lambda: bodies.written(verb(*arguments)))
