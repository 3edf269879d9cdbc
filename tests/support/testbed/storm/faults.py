"""A proxy before a sink that misbehaves by a seeded chance, and counts what went through it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

import aiohttp
from aiohttp import web

_TIMEOUT_SECONDS = 900.0
_UNFORWARDED = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class Fault(StrEnum):
    ERROR = "answered 500"
    OVERLOAD = "answered 503"
    HANG = "hung"
    LOST = "took it, answered 500"


CHANCES: Mapping[Fault, float] = {Fault.ERROR: 0.02, Fault.OVERLOAD: 0.02, Fault.HANG: 0.005, Fault.LOST: 0.02}
NONE: Mapping[Fault, float] = {}


class FaultyProxy:
    """Forwards POSTs to `target`. What it counts may be read from any thread once it stands still."""

    def __init__(self, target: str, *, seed: int, chances: Mapping[Fault, float], hang_seconds: float) -> None:
        self.injected: Counter[Fault] = Counter()
        self.posted: Counter[str] = Counter()  # by event id
        self.accepted: Counter[str] = Counter()
        self.in_flight = 0
        self.url = ""
        self._target, self._hang_seconds = target, hang_seconds
        self._faults, self._weights = [None, *chances], [1 - sum(chances.values()), *chances.values()]
        self._random = random.Random(seed)  # noqa: S311
        self._client: aiohttp.ClientSession | None = None
        self._stopping = asyncio.Event()

    @property
    def again(self) -> int:
        """Posts of an event beyond its first."""
        return sum(self.posted.values()) - len(self.posted)

    @property
    def accepted_again(self) -> int:
        """Events that the sink took once more."""
        return sum(self.accepted.values()) - len(self.accepted)

    async def serve(self, stopping: asyncio.Event, started: threading.Event) -> None:
        self._stopping = stopping
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT_SECONDS)) as self._client:
            application = web.Application(client_max_size=64 << 20)
            application.router.add_post("/{path:.*}", self._answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await stopping.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        try:
            return await self._misbehave(request)
        finally:
            self.in_flight -= 1

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        event_id = request.headers.get("ce-id", "")
        self.posted[event_id] += 1
        (fault,) = self._random.choices(self._faults, self._weights)
        if fault is not None:
            self.injected[fault] += 1
        if fault is Fault.ERROR:
            return web.Response(status=500, text="injected")
        if fault is Fault.OVERLOAD:
            return web.Response(status=503, text="injected", headers={"retry-after": "1"})
        if fault is Fault.HANG:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._hang_seconds)
            return _hung_up(request)
        answer = await self._forward(request)
        if answer.status < 300:
            self.accepted[event_id] += 1
        return web.Response(status=500, text="injected after the sink took it") if fault is Fault.LOST else answer

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        assert self._client is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _UNFORWARDED}
        try:
            body = await request.read()
            async with self._client.post(self._target + request.path, data=body, headers=headers) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _UNFORWARDED}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except (aiohttp.ClientError, ConnectionError):
            return _hung_up(request)  # the sink was killed, or who posted: what it held gets no answer


def _hung_up(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


@contextmanager
def faulty_proxies(
    targets: Mapping[str, str], *, seed: int, chances: Mapping[Fault, float] = CHANCES, hang_seconds: float
) -> Iterator[dict[str, FaultyProxy]]:
    """One before each target, by name, on one thread."""
    proxies = {
        name: FaultyProxy(target, seed=seed + number, chances=chances, hang_seconds=hang_seconds)
        for number, (name, target) in enumerate(targets.items())
    }
    loop, stopping, started = asyncio.new_event_loop(), asyncio.Event(), [threading.Event() for _ in proxies]

    async def serve() -> None:
        await asyncio.gather(
            *(proxy.serve(stopping, began) for proxy, began in zip(proxies.values(), started, strict=True))
        )
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert all(began.wait(10) for began in started)
        yield proxies
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(30)
        loop.close()
