"""Connections to processes over HTTP/1.1: kept for a moment, and one answer at a time on each."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

# Servers close an idle connection after 5 s or later; ours are given up before, so that no request meets the close.
_IDLE_SECONDS = 2.0
_MOST_IDLE = 64  # for one process
_HIGH_WATER = 256 * 1024


class Broken(Exception):
    """The process ended its connection in the middle of an answer."""


class Answer(Protocol):
    """Who is told of an answer as it comes."""

    def answer_head(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None: ...

    def answer_part(self, part: bytes) -> None: ...

    def answer_flush(self) -> None: ...

    def pause_request(self) -> None: ...

    def resume_request(self) -> None: ...


class Outbound(asyncio.Protocol):
    """One connection. `begin`, then `head` is done when the answer has begun and `done` when it is complete."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self.head: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.closed = False
        self.reusable = False
        self.idle_since = 0.0
        self._no_body = self._complete = False
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._restart_parser()

    def begin(self, answer: Answer, *, no_body: bool) -> None:
        """Take one more answer. `no_body`: that to a HEAD, whose headers speak of a body that does not come."""
        self._answer, self._no_body = answer, no_body
        self.head, self.done = self._loop.create_future(), self._loop.create_future()
        self.reusable = False
        self._restart_parser()

    def write(self, parts: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(parts)

    def pause(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def close(self) -> None:
        self.closed = True
        self._answer = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"it did not answer in HTTP: {error}")
            return
        if self._answer is not None:
            self._answer.answer_flush()
        if self._complete and not self.done.done():
            self._answer = None
            self.done.set_result(None)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and self._until_close and error is None:
            self._answer.answer_flush()
            self.done.set_result(None)
        elif self._answer is not None:
            self._break("it ended")

    def pause_writing(self) -> None:
        if self._answer is not None:
            self._answer.pause_request()

    def resume_writing(self) -> None:
        if self._answer is not None:
            self._answer.resume_request()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:  # more than was asked for: nobody may take it for the next request's answer
            self.reusable = False
        self._reason, self._headers = b"", []

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._complete or self._answer is None:
            return
        framed = {name for name, _ in self._headers} & {b"content-length", b"transfer-encoding"}
        bodiless = self._no_body or status in (204, 304)
        self._until_close = not framed and not bodiless
        self._keeps_alive = self._parser.should_keep_alive() and not self._until_close
        self._final = True
        self._answer.answer_head(status, self._reason, self._headers)
        if not self.head.done():
            self.head.set_result(None)
        if self._no_body:
            self._complete = True  # the parser waits for a body: this connection is of no more use

    def on_body(self, part: bytes) -> None:
        if self._answer is not None and not self._complete:
            self._answer.answer_part(part)

    def on_message_complete(self) -> None:
        if self._final and not self._complete:
            self._complete = True
            self.reusable = self._keeps_alive

    def _restart_parser(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._final = self._complete = self._until_close = self._keeps_alive = False

    def _break(self, why: str) -> None:
        self._answer = None
        for future in (self.head, self.done):
            if not future.done():
                future.set_exception(Broken(why))
                future.exception()  # whoever waits for the other one is told too
        self.close()


class Pool:
    """Idle connections by port."""

    def __init__(self) -> None:
        self._idle: dict[int, deque[Outbound]] = {}

    async def connect(self, port: int) -> Outbound:
        """Raises OSError where nothing listens."""
        loop = asyncio.get_running_loop()
        idle = self._idle.get(port)
        while idle:
            found = idle.pop()
            if not found.closed and loop.time() - found.idle_since < _IDLE_SECONDS:
                return found
            found.close()
        _, outbound = await loop.create_connection(Outbound, "127.0.0.1", port)
        return outbound

    def keep(self, port: int, outbound: Outbound) -> None:
        idle = self._idle.setdefault(port, deque())
        while idle and idle[0].closed:  # the oldest, which its process closes first
            idle.popleft()
        if outbound.closed or not outbound.reusable or len(idle) >= _MOST_IDLE:
            outbound.close()
            if not idle:
                del self._idle[port]
            return
        outbound.resume()  # the client of its last answer may have been slow
        outbound.idle_since = asyncio.get_running_loop().time()
        idle.append(outbound)

    def forget(self, port: int) -> None:
        """Its process is gone, and another may get the port."""
        for outbound in self._idle.pop(port, ()):
            outbound.close()

    def close(self) -> None:
        for port in list(self._idle):
            self.forget(port)
