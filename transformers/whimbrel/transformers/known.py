"""The answer that an event had before: a duplicate costs a look at the results, and no inference.

Looked for only where an event may have been here already, since a look is a request or two to the store: its
extensions say so (the source was handed it again, a dead letter was replayed), or this process remembers its id (the
broker tries again because the results sink did not take the answer).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import WhimbrelError
from whimbrel.core.metrics import TRANSFORMER_IMAGES
from whimbrel.core.redelivery import is_redelivered
from whimbrel.core.references import ObjectRef
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import Result

logger = logging.getLogger(__name__)

_REMEMBERED = 10_000  # event ids, about 1 MB


class KnownAnswers:
    """Of one model. Has the threads that read; `close` them. Without a store, nothing is known."""

    def __init__(self, store: ResultStore | None, model_name: str, *, threads: int = 4) -> None:
        self._store, self._model_name = store, model_name
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="known")

    def may_be_known(self, event: Event) -> bool:
        """Whether the event says so, or was here before; it is remembered from now on."""
        identity = (event.source, event.id)
        seen = identity in self._seen
        self._seen[identity] = None
        self._seen.move_to_end(identity)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return self._store is not None and (seen or is_redelivered(event.extensions))

    async def find(self, event: Event, ref: ObjectRef) -> Result | None:
        """The result that this very event has of this model, whichever version gave it; None also where the store does
        not tell."""
        if ref.version_id is None and ref.etag is None:
            return None
        loop = asyncio.get_running_loop()
        try:
            known = await loop.run_in_executor(self._threads, self._read, event, ref)
        except WhimbrelError as error:
            logger.info("not known whether it was answered before: %s", error)
            return None
        if known is not None:
            TRANSFORMER_IMAGES.labels("known").inc()
            logger.info("answered before", extra={"model_version": known.model.version})
        return known

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, event: Event, ref: ObjectRef) -> Result | None:
        assert self._store is not None  # noqa: S101  (`may_be_known` says no without one)
        asked = (event.source, event.id, self._model_name)
        results = (record for record in self._store.recorded(ref) if isinstance(record, Result))
        return next(
            (each for each in results if (each.event.source, each.event.id, each.model.name) == asked),
            None,
        )
