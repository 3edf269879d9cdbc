"""Requests that others post, as an upstream: the poster keeps the event until it is answered 2xx."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from whimbrel.core.budget import LEAST_BYTES, Budget
from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import PayloadTooLarge, Unavailable, WhimbrelError
from whimbrel.core.metrics import PUSH_REQUESTS, PUSH_WAITING
from whimbrel.eventing.push.authentication import admission
from whimbrel.eventing.push.outcomes import Outcome, Outcomes
from whimbrel.eventing.push.requests import identity, read_request
from whimbrel.eventing.push.settings import PushSourceSettings
from whimbrel.eventing.receiving import bounded_body
from whimbrel.eventing.upstream import Message, Unreadable

RETRY_AFTER_SECONDS: Final = 1.0
REFUSAL_SECONDS: Final = 0.5  # before a status that the poster may answer by posting again at once
BODY_SETTING: Final = "WHIMBREL_PUSH_MAX_BODY_BYTES"
_RECEIVE_SECONDS: Final = 1.0
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Grant:
    """Bytes of the budget, given back when neither a request nor a delivery holds them."""

    budget: Budget
    amount: int
    holders: int = 1

    def shared(self) -> _Grant:
        self.holders += 1
        return self

    def release(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.budget.give_back(self.amount)


@dataclass(slots=True)
class _Delivery:
    """The events of one request until the sink has answered; every request with the same ones waits for it."""

    identity: str
    readings: list[Event | Unreadable]
    grant: _Grant
    deliveries: int
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class PushUpstream:
    """A request waits for the sink's answer, and gets a 503 with Retry-After shortly before its poster gives up.

    The delivery goes on meanwhile. The same events posted again join it, or get its outcome: a slow sink makes no
    storm. A 503 is never early: RGW 16 posts again at once, without end.
    """

    lease_seconds = None
    hold_seconds = 0.0  # the poster comes again
    receivers = 1

    def __init__(self, settings: PushSourceSettings, name: str) -> None:
        self.name = name
        self._settings = settings
        self._admission = admission(settings)
        self._budget = Budget(settings.push_buffer_bytes, "bytes for events", max_wait_seconds=3600)
        self._outcomes = Outcomes(settings.push_remembered, settings.push_remember_seconds)
        self._under_way: dict[str, _Delivery] = {}  # waiting, or in work
        self._waiting: deque[_Delivery] = deque()
        self._arrived = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()  # of the requests that wait
        self._requests = 0
        self._closed = False

    @property
    def uri(self) -> str:
        return f"/whimbrel/sources/{self.name}"

    @property
    def batch_size(self) -> int:
        return self._settings.max_in_flight

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """POST to any path: the poster's configuration names one, or none."""
        return [Route("/{path:path}", self._admitted, methods=["POST"])]

    async def open(self) -> None:
        if not self._admission.digests and self._settings.http_host not in _LOOPBACK:
            _log.warning(
                "whoever reaches %s:%d may post events; set WHIMBREL_PUSH_TOKEN_FILE, or WHIMBREL_PUSH_USER and "
                "WHIMBREL_PUSH_PASSWORD_FILE",
                self._settings.http_host,
                self._settings.http_port,
            )

    async def receive(self) -> list[Message]:
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECEIVE_SECONDS):
                    await self._arrived.wait()
        taken = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        if not self._waiting:
            self._arrived.clear()
        return [Message(b"", delivery.identity, delivery.deliveries) for delivery in taken]

    def read(self, message: Message) -> list[Event | Unreadable]:
        return self._under_way[str(message.receipt)].readings

    def holds(self, message: Message) -> bool:
        return True  # until it is settled, whatever its poster does

    async def accept(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._settle(message, None)

    async def give_back(self, messages: Sequence[Message], delay_seconds: float) -> None:
        for message in messages:
            self._settle(message, time.monotonic() + delay_seconds)

    async def extend(self, messages: Sequence[Message]) -> None:
        """There are no leases."""

    async def close(self) -> None:
        """Whoever still waits is told to come again."""
        self._closed = True
        for limit in self._limits:
            with contextlib.suppress(RuntimeError):  # it has run out this moment
                limit.reschedule(0)

    def _settle(self, message: Message, not_before: float | None) -> None:
        delivery = self._under_way.pop(str(message.receipt), None)
        if delivery is not None:
            self._outcomes.remember(delivery.identity, Outcome(not_before, message.deliveries))
            delivery.grant.release()
            delivery.settled.set()

    async def _admitted(self, request: Request) -> Response:
        if self._admission.admits(request.headers.get("authorization")):
            return await self._answer(request)
        PUSH_REQUESTS.labels(self.name, "refused").inc()
        await asyncio.sleep(REFUSAL_SECONDS)
        body = {"error": "expected the credentials of this receiver", "reason": "Unauthorized"}
        return JSONResponse(body, 401, {"www-authenticate": self._admission.challenge})

    async def _answer(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            how = await self._within_the_limit(request)
            PUSH_REQUESTS.labels(self.name, how).inc()
            return Response(status_code=202)
        except WhimbrelError as error:
            PUSH_REQUESTS.labels(self.name, "late" if isinstance(error, Unavailable) else "refused").inc()
            if not self._closed:
                await asyncio.sleep(max(0.0, began + REFUSAL_SECONDS - time.monotonic()))
            return JSONResponse(error.body(), error.status, error.headers())
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    async def _within_the_limit(self, request: Request) -> str:
        """How it came to be accepted. Raises Unavailable when it is time to say that it is not yet."""
        if self._closed or self._requests >= self._settings.push_max_requests:
            why = "it is stopping" if self._closed else f"{self._requests} requests at once"
            raise Unavailable(f"not read, {why}; send it again", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._requests += 1  # only those that are taken in: refused ones must keep nobody out
        try:
            async with asyncio.timeout(self._settings.push_answer_seconds) as limit:
                self._limits.add(limit)
                try:
                    return await self._take(request)
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            raise Unavailable(
                "the sink has not accepted it yet; send it again", retry_after_seconds=RETRY_AFTER_SECONDS
            ) from None
        finally:
            self._requests -= 1

    async def _take(self, request: Request) -> str:
        most = self._settings.push_max_body_bytes
        declared = _declared_length(request, most)
        if declared > most:
            raise PayloadTooLarge(f"expected a body of at most {most} bytes, seen {declared}; see {BODY_SETTING}")
        grant = _Grant(self._budget, await self._budget.take(max(LEAST_BYTES, declared)))
        try:
            readings = read_request(request.headers, await bounded_body(request, most, BODY_SETTING))
            if not readings:
                return "empty"
            with PUSH_WAITING.labels(self.name).track_inprogress():
                return await self._until_accepted(identity(readings), readings, grant)
        finally:
            grant.release()

    async def _until_accepted(self, name: str, readings: list[Event | Unreadable], grant: _Grant) -> str:
        how = ""
        while True:
            delivery = self._under_way.get(name)
            if delivery is None:
                outcome = self._outcomes.recall(name) or Outcome(0, 1)
                if outcome.not_before is None:
                    return how or "remembered"
                if outcome.not_before > (now := time.monotonic()):
                    await asyncio.sleep(outcome.not_before - now)
                    continue  # another request may have begun it
                delivery = self._begun(_Delivery(name, readings, grant.shared(), outcome.deliveries))
                how = "delivered"
            how = how or "joined"
            await delivery.settled.wait()

    def _begun(self, delivery: _Delivery) -> _Delivery:
        self._under_way[delivery.identity] = delivery
        self._waiting.append(delivery)
        self._arrived.set()
        return delivery


def _declared_length(request: Request, otherwise: int) -> int:
    text = request.headers.get("content-length", "")
    return int(text[:20]) if text.isascii() and text.isdigit() else otherwise
