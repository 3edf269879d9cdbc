"""The results sink: prediction events in, each result in the bucket once, the latest never by an older event."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from whimbrel.core import tracing
from whimbrel.core.cloudevent import Event, parse
from whimbrel.core.errors import InputRefused, TryAgain, WhimbrelError
from whimbrel.core.key_template import KeyTemplate
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import SINK_RECORDS
from whimbrel.core.result_store import ResultStore, Written
from whimbrel.core.results import GONE_TYPE, PREDICTION_TYPE, Gone, Result, parse_gone, parse_result
from whimbrel.core.s3 import s3_client
from whimbrel.core.self_trigger import check_not_announced
from whimbrel.eventing import serving
from whimbrel.eventing.listing import folder
from whimbrel.eventing.receiving import Writers, post_route
from whimbrel.eventing.settings import ResultsSinkSettings

_SUFFIX = ".json"  # of every key that is written

Record = TypeVar("Record", Result, Gone)

_log = logging.getLogger(__name__)


def run(settings: ResultsSinkSettings) -> None:
    """Serve until SIGTERM. Raises Unavailable when the bucket does not come within `startup_wait_seconds`."""
    client = s3_client(settings, connections=settings.concurrent_writes)
    latest = settings.results_latest
    store = ResultStore(client, settings.results_bucket, settings.results_prefix, keeps_latest=latest)
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
            written = store.write(_not_of_a_result(parse_result(event.data or b""), store))
        elif event.type == GONE_TYPE:
            written = store.write_gone(_not_of_a_result(parse_gone(event.data or b""), store))
        else:
            raise InputRefused(f"expected an event of type {PREDICTION_TYPE} or {GONE_TYPE}, seen {event.type!r}")
        SINK_RECORDS.labels("results", written.value).inc()
        _log.info("%s: %s", event.type, written.value)
        return written


def _not_of_a_result(record: Record, store: ResultStore) -> Record:
    """What a store that does not tell its notifications may send: an answer about what was written here."""
    ref = record.object.ref
    if ref.bucket == store.bucket and ref.key.startswith(_written_prefix(store)) and ref.key.endswith(_SUFFIX):
        raise InputRefused(
            f"expected a result of an object that is none of ours, seen one of {ref.uri}; the bucket "
            "announces what is written to it: filter its notification, or name another bucket or prefix"
        )
    return record


def _written_prefix(store: ResultStore) -> str:
    """What the keys of results of objects in this very bucket begin with."""
    return folder(KeyTemplate(store.prefix).prefix(store.bucket))


def _looked_at(store: ResultStore) -> ResultStore:
    check_not_announced(store.client, store.bucket, "results", prefix=_written_prefix(store), suffix=_SUFFIX)
    probed = store.probed()
    for weakness in probed.weaknesses:
        _log.warning("the store of bucket %r: %s", store.bucket, weakness)
    return probed
