"""The results sink: prediction events in, each result in the bucket once, the latest never by an older event."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import InputRefused, TryAgain, WhimbrelError
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SINK_RECORDS
from whimbrel.core.result_store import ResultStore, Written
from whimbrel.core.results import GONE_TYPE, PREDICTION_TYPE, parse_gone, parse_result
from whimbrel.core.s3 import s3_client
from whimbrel.eventing import serving
from whimbrel.eventing.receiving import Writers, post_route
from whimbrel.eventing.settings import ResultsSinkSettings

_log = logging.getLogger(__name__)


def run(settings: ResultsSinkSettings) -> None:
    """Serve until SIGTERM. Raises Unavailable when the bucket does not come within `startup_wait_seconds`."""
    store = ResultStore(
        s3_client(settings, connections=settings.concurrent_writes), settings.results_bucket, settings.results_prefix
    )
    writers = Writers(settings)

    async def take(headers: Mapping[str, str], body: bytes) -> None:
        with tracing.span("sink.results", tracing.carrier(headers)):
            await take_events(parse(headers, body), store, writers)

    async def work(stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        async def look() -> None:
            nonlocal store
            store = await writers.call(functools.partial(_looked_at, store))

        service = f"bucket {store.bucket!r}"
        if await serving.until_present(look, service, settings.startup_wait_seconds, stopping):
            ready()

    serving.run(settings, [post_route(take, settings.max_body_bytes)], work)


async def take_events(events: list[Event], store: ResultStore, writers: Writers) -> None:
    """Write every event of a request; then raise the first failure, one worth another try before a refusal.

    Whatever was written stays: the whole request may come again.
    """
    failures: list[WhimbrelError] = []
    for event in events:
        try:
            await writers.call(functools.partial(write, event, store))
        except WhimbrelError as error:
            failures.append(error)
    failures.sort(key=lambda error: not isinstance(error, TryAgain))
    if failures:
        raise failures[0]


def write(event: Event, store: ResultStore) -> Written:
    """Blocking. Raises InputRefused for another type of event or a body that is no such record."""
    with log_fields(event_id=event.id, object=event.subject):
        if event.type == PREDICTION_TYPE:
            written = store.write(parse_result(event.data or b""))
        elif event.type == GONE_TYPE:
            written = store.write_gone(parse_gone(event.data or b""))
        else:
            raise InputRefused(f"expected an event of type {PREDICTION_TYPE} or {GONE_TYPE}, seen {event.type!r}")
        SINK_RECORDS.labels("results", written.value).inc()
        _log.info("%s: %s", event.type, written.value)
        return written


def _looked_at(store: ResultStore) -> ResultStore:
    probed = store.probed()
    for weakness in probed.weaknesses:
        _log.warning("the store of bucket %r: %s", store.bucket, weakness)
    return probed
