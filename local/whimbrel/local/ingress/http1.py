"""A client's connection: HTTP/1.1 requests one after another, or HTTP/2 where it begins like that."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

from whimbrel.local.ingress import h2c
from whimbrel.local.ingress.exchange import HIGH_WATER, Exchange, own_answer
from whimbrel.local.ingress.gate import Gate
from whimbrel.local.ingress.http2 import PREFACE
from whimbrel.local.ingress.routes import Failure

_MOST_HEAD_BYTES = 64 * 1024
_TOO_LONG = f"a head of more than {_MOST_HEAD_BYTES} bytes"
_MOST_PIPELINED = 64
_LINGER_SECONDS = 5.0


class Open(Protocol):
    """An open connection of any protocol, to be ended with its port."""

    def end_when_idle(self) -> None: ...

    def cut(self) -> None: ...


class Inbound(asyncio.Protocol):
    """One client's connection; `service` is the one behind this port, None where the Host tells."""

    def __init__(self, gate: Gate, service: str | None, open_connections: set[Open]) -> None:
        self.gate, self.service = gate, service
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[Exchange] = deque()
        self._head_bytes = 0  # of the head that is read, as far as its fields are complete
        self._head_received = 0  # of the head that is read, since the read that it began in
        self._in_head = False
        self._ending = self._lingering = False
        self._beginning: bytes | None = b""  # until it is known which protocol this is

    @property
    def idle(self) -> bool:
        return not self._exchanges

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._lingering:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """After what is written."""
        self._ending = True
        if self._transport is not None:
            self._transport.close()

    def close_slowly(self) -> None:
        """Where the client may still be sending: a close at once is a reset, which takes the answer along."""
        if self._transport is None or self._transport.is_closing():
            return
        self._ending = self._lingering = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.close)

    def cut(self) -> None:
        """An answer that broke off must not look complete."""
        if self._transport is not None:
            self._transport.abort()

    def end_when_idle(self) -> None:
        self._ending = True
        if self.idle:
            self.close()

    def finished(self, exchange: Exchange, *, keep: bool) -> None:
        """The next request on this connection may begin."""
        if self._exchanges and self._exchanges[0] is exchange:
            self._exchanges.popleft()
        if not keep and exchange.waits_for_body:
            self.close_slowly()
        elif not keep or (self._ending and not self._exchanges):
            self.close()
        elif self._exchanges:
            if self._exchanges[0].waits_for_body:
                self.resume()
            self._exchanges[0].start()
        else:
            self.resume()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._beginning is not None:
            data = self._beginning + data
            if data.startswith(PREFACE):
                self._become_http2(data)
                return
            self._beginning = data if PREFACE.startswith(data) else None
            if self._beginning is not None:
                return
        try:
            self._head_received += len(data)
            self._parser.feed_data(data)
            if self._in_head and self._head_received > _MOST_HEAD_BYTES:  # the parser tells of whole fields only
                raise httptools.HttpParserError(_TOO_LONG)
        except httptools.HttpParserUpgrade:
            self._refuse_upgrade()
        except httptools.HttpParserError as error:
            self._refuse(400, f"expected HTTP/1.1: {error}")

    def _become_http2(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        self._open.discard(self)
        client = h2c.Inbound(self.gate, self.service, self._open)
        transport.set_protocol(client.connection)
        client.connection.connection_made(transport)
        client.connection.data_received(data)

    def eof_received(self) -> None:
        return None  # and the transport closes

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        for exchange in self._exchanges:
            exchange.client_left()

    def pause_writing(self) -> None:
        if self._exchanges:
            self._exchanges[0].pause_answer()

    def resume_writing(self) -> None:
        if self._exchanges:
            self._exchanges[0].resume_answer()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_received = 0
        self._in_head = True
        self._current = Exchange(self)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self._current.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        self._current.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._lingering:  # the rest of a read whose beginning was refused
            return
        exchange = self._current
        exchange.method = self._parser.get_method()
        exchange.version = self._parser.get_http_version()
        exchange.keep_alive = self._parser.should_keep_alive()
        if self._parser.should_upgrade():  # the parser raises only once the exchange would have begun
            self._refuse_upgrade()
            return
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            exchange.start()
        else:  # a client that does not wait for answers: not faster than they are given
            self.pause()
            if len(self._exchanges) > _MOST_PIPELINED:
                self.cut()

    def on_body(self, part: bytes) -> None:
        self._current.request_part(part)

    def on_message_complete(self) -> None:
        self._current.request_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MOST_HEAD_BYTES:
            raise httptools.HttpParserError(_TOO_LONG)

    def _refuse_upgrade(self) -> None:
        self._refuse(501, "expected HTTP/1.1 without an upgrade to another protocol")

    def _refuse(self, status: int, why: str) -> None:
        if self.idle:
            self.write(own_answer(Failure(status, why), keep=False, head_only=False))
            self.close_slowly()
        else:
            self.cut()
