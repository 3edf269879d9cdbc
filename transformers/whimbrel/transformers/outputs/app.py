"""The sink: a prediction event in, its outputs in the bucket, an empty 202 out; statuses by the one table."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whimbrel.core import tracing
from whimbrel.core.budget import LEAST_BYTES, Budget
from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import InputRefused, PayloadTooLarge, WhimbrelError, is_retried
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SINK_RECORDS, exposition
from whimbrel.core.results import GONE_TYPE, PREDICTION_TYPE, Result, parse_result
from whimbrel.transformers.decoder import Decoder
from whimbrel.transformers.fetch import ObjectGone, ObjectReader
from whimbrel.transformers.outputs.files import files
from whimbrel.transformers.outputs.places import OutputPlaces

logger = logging.getLogger(__name__)

_SINK = "outputs"
_DRAWING = 3  # copies of the picture while it is drawn on and encoded
_PICTURES_A_THREAD = 2  # one is drawn on, one is decoded meanwhile

Answer = TypeVar("Answer")


class OutputsSink:
    """Has the threads that draw and write; `close` it."""

    def __init__(self, places: OutputPlaces, reader: ObjectReader, decoder: Decoder) -> None:
        settings = places.settings
        wait = settings.wait_seconds
        self._places, self._reader, self._decoder = places, reader, decoder
        self._held_bytes = Budget(settings.byte_budget, "bytes of images", max_wait_seconds=wait)
        # A picture that is decoded waits for memory to draw on it outside of all budgets: so there are few.
        self._pictures = Budget(_PICTURES_A_THREAD * settings.draw_threads, "pictures", max_wait_seconds=wait)
        self._threads = ThreadPoolExecutor(settings.draw_threads, thread_name_prefix="draw")

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._endpoint, methods=["POST"]),
                Route("/healthz", _health, methods=["GET"]),
                Route("/metrics", _metrics, methods=["GET"]),
            ]
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._decoder.close()

    async def _endpoint(self, request: Request) -> Response:
        try:
            events = parse(request.headers, await _body(request, self._places.settings.max_body_bytes))
            with tracing.span("sink.outputs", tracing.carrier(request.headers)):
                await self._take_all(events)
        except WhimbrelError as error:
            logger.warning("answered %d: %s", error.status, error)
            return JSONResponse(error.body(), error.status, error.headers())
        return Response(status_code=202)

    async def _take_all(self, events: list[Event]) -> None:
        """Every event of a request; then the first failure, one worth another try before a refusal."""
        failures: list[WhimbrelError] = []
        for event in events:
            try:
                with log_fields(event_id=event.id, object=event.subject):
                    outcome = await self._take(event)
                    SINK_RECORDS.labels(_SINK, outcome).inc()
                    logger.info("outputs: %s", outcome)
            except WhimbrelError as error:
                failures.append(error)
        if failures:
            raise min(failures, key=lambda error: not is_retried(error.status))

    async def _take(self, event: Event) -> str:
        """`new`, `duplicate` (they are there, or newer ones) or `gone`."""
        if event.type == GONE_TYPE:
            return "gone"
        if event.type != PREDICTION_TYPE:
            raise InputRefused(f"expected an event of type {PREDICTION_TYPE} or {GONE_TYPE}, seen {event.type!r}")
        result = parse_result(event.data or b"")
        if await self._in_thread(functools.partial(self._places.are_written, result)):
            return "duplicate"
        size = result.object.size or self._places.settings.image_max_bytes
        async with self._held_bytes.held(max(LEAST_BYTES, size)):
            try:
                fetched = await self._reader.fetch(result.object.ref)
            except ObjectGone as gone:
                logger.info("nothing to draw on: %s", gone)
                return "gone"
            async with self._pictures.held(1):
                picture = (await self._decoder.decode(fetched.content, None)).pixels
                async with self._decoder.budget.held(_DRAWING * picture.nbytes):
                    written = await self._in_thread(functools.partial(self._write, picture, result))
        return "new" if written else "duplicate"

    def _write(self, picture: NDArray[np.uint8], result: Result) -> bool:
        """Whether one of them is new; each is put."""
        put = functools.partial(self._places.put, result=result)
        written = [put(*made) for made in files(picture, result, self._places.settings)]
        return any(written)

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise PayloadTooLarge(f"expected a body of at most {most} bytes; see WHIMBREL_MAX_BODY_BYTES")
    return bytes(body)


async def _health(request: Request) -> Response:
    return JSONResponse({"ready": True})


async def _metrics(request: Request) -> Response:
    body, content_type = exposition()
    return Response(body, media_type=content_type)
