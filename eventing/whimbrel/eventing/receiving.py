"""What both sinks do with a request: a bounded body, bounded writes in threads, the error table, an empty 202."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whimbrel.core.errors import PayloadTooLarge, Unavailable, WhimbrelError
from whimbrel.eventing.settings import SinkSettings

Answer = TypeVar("Answer")
Take = Callable[[Mapping[str, str], bytes], Awaitable[None]]

_log = logging.getLogger(__name__)


def post_route(take: Take, max_body_bytes: int) -> Route:
    """`POST /`: hands headers and body to `take`; 202 with an empty body, or the error's status and JSON."""

    async def answer(request: Request) -> Response:
        try:
            await take(request.headers, await bounded_body(request, max_body_bytes, "WHIMBREL_MAX_BODY_BYTES"))
        except WhimbrelError as error:
            _log.warning("answered %d: %s", error.status, error)
            return JSONResponse(error.body(), error.status, error.headers())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            _log.exception("answered 500")
            return JSONResponse({"error": type(error).__name__, "reason": "Unexpected"}, 500)
        return Response(status_code=202)

    return Route("/", answer, methods=["POST"])


class Writers:
    """Runs blocking writes in at most `concurrent_writes` threads; past `queued_writes` waiting it is a 503."""

    def __init__(self, settings: SinkSettings) -> None:
        self._threads = ThreadPoolExecutor(settings.concurrent_writes, "write")
        self._most = settings.concurrent_writes + settings.queued_writes
        self._under_way = 0

    async def call(self, write: Callable[[], Answer]) -> Answer:
        if self._under_way >= self._most:
            raise Unavailable(f"expected at most {self._most} writes at once; send again", retry_after_seconds=1)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, write)
        finally:
            self._under_way -= 1


async def bounded_body(request: Request, most: int, setting: str) -> bytes:
    """Raises PayloadTooLarge, which names the setting."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise PayloadTooLarge(f"expected a body of at most {most} bytes; see {setting}")
    return bytes(body)
