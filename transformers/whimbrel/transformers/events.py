"""`POST /events`, `/events/NAME`, KServe's V1 path: an object event in, the reply event out, by Knative's rules.

    one ObjectCreated event     200 and the reply event in binary mode: a prediction, or that the object is gone
    any other object event      204, nothing to do
    refused or failed           the status and JSON body of `whimbrel.core.errors`: never a 200 with another body

Knative's brokers send single events. A batch is answered as a whole: by one batched 200 when every event worked, else
by its first failure that is worth another try, else by its first refusal. To send a batch again does no harm, as
results are written once; whoever must not lose the good ones of a batch to a refused one sends them singly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from whimbrel.core import cloudevent, tracing
from whimbrel.core.budget import LEAST_BYTES, Budget
from whimbrel.core.cloudevent import Event, json_event
from whimbrel.core.errors import NotFound, PayloadTooLarge, WhimbrelError, is_retried
from whimbrel.core.logs import log_fields
from whimbrel.core.metrics import TRANSFORMER_IMAGES
from whimbrel.core.records import ObjectEvent, object_event
from whimbrel.core.results import ANSWER, GONE_TYPE, PREDICTION_TYPE, Gone, Result, ResultEvent, ResultObject
from whimbrel.transformers.classifier import Classifier, counted, log_answer
from whimbrel.transformers.fetch import ObjectGone, ObjectReader
from whimbrel.transformers.known import KnownAnswers
from whimbrel.transformers.timing import FETCH, Timing

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024  # Knative's own limit on an event


class CloudEventRoute(Route):
    """Takes only requests that carry CloudEvents: the others of that path are the next route's, which the SDK reads.

    The SDK would lose their attributes, or hand over the envelope in place of the data.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and not cloudevent.is_cloudevent(Headers(scope=scope)):
            return Match.NONE, {}
        return super().matches(scope)


@dataclass(frozen=True, slots=True)
class ObjectEvents:
    """The endpoint and what it needs. `held_bytes` is the budget of encoded images in memory."""

    model_name: str
    reader: ObjectReader
    classifier: Classifier
    held_bytes: Budget
    max_image_bytes: int
    known: KnownAnswers

    async def endpoint(self, request: Request) -> Response:
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"expected events of at most {MAX_BODY_BYTES} bytes, seen {len(body)}")
        headers = dict(request.headers)
        events = cloudevent.parse(headers, body)
        is_batch = headers.get("content-type", "").lower().startswith(cloudevent.BATCHED)
        replies = await self._replies(events, headers)
        return _response(replies, is_batch=is_batch)

    async def _replies(self, events: list[Event], headers: Mapping[str, str]) -> list[Event]:
        outcomes = await asyncio.gather(*(self.reply(event, headers) for event in events), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise min(failures, key=_rank)
        return [outcome for outcome in outcomes if isinstance(outcome, Event)]

    async def reply(self, event: Event, headers: Mapping[str, str]) -> Event | None:
        """The reply to one event; None where there is nothing to say. Raises WhimbrelError."""
        happened = object_event(event)
        if not happened.creates:
            logger.debug("nothing to do", extra={"type": event.type, "event_id": event.id})
            return None
        came_from = tracing.carrier(headers, event.extensions)
        with (
            tracing.span("transformer.event", came_from, event_id=event.id, object=happened.object.uri),
            log_fields(event_id=event.id, object=happened.object.uri),
        ):
            try:
                return await self._prediction(event, happened)
            except ObjectGone as gone:
                TRANSFORMER_IMAGES.labels("gone").inc()
                logger.info("gone", extra={"reason": str(gone)})
                return self._gone(event, happened, str(gone))
            except WhimbrelError as error:
                logger.warning(str(error), extra={"reason": error.reason, "status": error.status})
                raise

    async def _prediction(self, event: Event, happened: ObjectEvent) -> Event:
        suspected = self.known.may_be_known(event)
        known = await self.known.find(event, happened.object) if suspected else None
        return self._answer(event, known or await self._classify(event, happened, suspected=suspected))

    async def _classify(self, event: Event, happened: ObjectEvent, *, suspected: bool) -> Result:
        timing, ref = Timing(), happened.object
        size = self.max_image_bytes if ref.size is None else ref.size
        with counted():
            async with self.held_bytes.held(max(LEAST_BYTES, min(size, self.max_image_bytes))):
                with timing.stage(FETCH), tracing.span("transformer.fetch"):
                    fetched = await self.reader.fetch(ref)
                if suspected and fetched.ref.version != ref.version:  # RGW's pull mode does not tell which version
                    known = await self.known.find(event, fetched.ref)
                    if known is not None:
                        return known
                answer = await self.classifier.classify(fetched.content, timing, event.id)
        timing_ms = timing.finish() | {ANSWER: round(answer.seconds * 1000, 3)}
        log_answer(answer, timing_ms)
        return Result(
            object=ResultObject.of(fetched.ref),
            event=_result_event(event, happened),
            model=answer.model,
            predictions=answer.predictions,
            timing_ms=timing_ms,
        )

    def _answer(self, event: Event, result: Result) -> Event:
        digest = result.model.digest.removeprefix("sha256:")
        return self._reply(event, PREDICTION_TYPE, digest[:16], result.object.key, result)

    def _gone(self, event: Event, happened: ObjectEvent, reason: str) -> Event:
        ref = happened.object
        gone = Gone(object=ResultObject.of(ref), event=_result_event(event, happened), reason=reason)
        return self._reply(event, GONE_TYPE, "gone", ref.key, gone)

    def _reply(self, event: Event, type_: str, suffix: str, key: str, record: Result | Gone) -> Event:
        return json_event(
            id=f"{event.id}/{suffix}",
            source=f"/whimbrel/models/{self.model_name}",
            type=type_,
            subject=key,
            time=datetime.now(UTC),
            data=record.model_dump(mode="json", by_alias=True, exclude_none=True),
            extensions={name: event.extensions[name] for name in tracing.CONTEXT_NAMES if name in event.extensions},
        )


def event_routes(models: Sequence[ObjectEvents]) -> list[Route]:
    """`/events` is the first model's; a Trigger may point to any model's own path, or to KServe's."""
    by_name = {each.model_name: each for each in models}

    async def endpoint(request: Request) -> Response:
        model_name = request.path_params["model_name"]
        if model_name not in by_name:
            raise NotFound(f"expected one of the models {', '.join(by_name)}, seen {model_name!r}")
        return await by_name[model_name].endpoint(request)

    return [
        Route("/events", models[0].endpoint, methods=["POST"]),
        Route("/events/{model_name}", endpoint, methods=["POST"]),
        CloudEventRoute("/v1/models/{model_name}:predict", endpoint, methods=["POST"]),
    ]


def _result_event(event: Event, happened: ObjectEvent) -> ResultEvent:
    return ResultEvent(id=event.id, source=event.source, time=happened.time, sequencer=happened.sequencer)


def _rank(failure: BaseException) -> int:
    """What is unexpected comes first, then what is tried again, then what is refused."""
    if not isinstance(failure, WhimbrelError):
        return 0
    return 1 if is_retried(failure.status) else 2


def _response(replies: list[Event], *, is_batch: bool) -> Response:
    if not replies:
        return Response(status_code=204)
    headers, body = cloudevent.batched(replies) if is_batch else cloudevent.binary(replies[0])
    return Response(body, headers=headers)
