"""One HTTP/2 connection without TLS, either end of it: frames by the h2 library, each stream's data as windows allow.

What a stream received is acknowledged when it has been passed on, so that a slow reader at one end slows the writer at
the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STREAM_WINDOW = 1024 * 1024
_CONNECTION_WINDOW = 8 * 1024 * 1024

Headers = Sequence[tuple[bytes, bytes]]


class Stream(Protocol):
    """Who is told of one stream of a connection."""

    def on_headers(self, headers: Headers, *, end: bool) -> None: ...

    def on_data(self, data: bytes, received: int, *, end: bool) -> None: ...

    def on_reset(self, code: int) -> None: ...


@dataclass
class _Outgoing:
    """What waits for a window. `parts` carry what is to be called when they have gone."""

    parts: deque[tuple[bytes, Callable[[], None]]] = field(default_factory=deque)
    trailers: Headers | None = None
    end: bool = False


class _OpenAfterGoAway(h2.connection.H2Connection):
    """The library takes GOAWAY for the end of the connection, and every frame after it for an error. It is a farewell:
    what was asked before is still answered (RFC 9113, 6.8)."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[h2.events.Event]]:
        said = h2.events.ConnectionTerminated()
        said.last_stream_id = frame.last_stream_id
        return [], [said]


class Connection(asyncio.Protocol):
    """`accept` makes a stream for each request that comes; None at the end that asks."""

    def __init__(self, accept: Callable[[int], Stream] | None, lost: Callable[[], None] = lambda: None) -> None:
        self._accept, self._lost = accept, lost
        config = h2.config.H2Configuration(client_side=accept is None, header_encoding=None)
        self._h2 = _OpenAfterGoAway(config)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._outgoing: dict[int, _Outgoing] = {}
        self.closed = False

    @property
    def idle(self) -> bool:
        return not self._streams

    def open(self, stream: Stream, headers: Headers, *, end: bool) -> int:
        """Ask; the id of the new stream. Raises h2.exceptions.ProtocolError where none can be opened any more."""
        if self.closed:
            raise h2.exceptions.ProtocolError("the connection is closed")
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, headers, end_stream=end)
        self._streams[number] = stream
        self._flush()
        return number

    def answer(self, number: int, headers: Headers, *, end: bool) -> None:
        self._try(lambda: self._h2.send_headers(number, headers, end_stream=end))

    def send(self, number: int, data: bytes, gone: Callable[[], None]) -> None:
        self._outgoing.setdefault(number, _Outgoing()).parts.append((data, gone))
        self._pump(number)

    def end(self, number: int, trailers: Headers | None = None) -> None:
        """After what was sent before."""
        outgoing = self._outgoing.setdefault(number, _Outgoing())
        outgoing.end, outgoing.trailers = True, trailers
        self._pump(number)

    def acknowledge(self, number: int, received: int) -> None:
        if received:
            self._try(lambda: self._h2.acknowledge_received_data(received, number))

    def reset(self, number: int, code: int) -> None:
        self.forget(number)
        self._drop(number)
        self._try(lambda: self._h2.reset_stream(number, code))

    def forget(self, number: int) -> None:
        """Nobody is told of it any more; what was sent on it still goes."""
        self._streams.pop(number, None)

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._try(self._h2.close_connection)
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW})
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self.close()
            return
        for event in events:
            self._take(event)
        self._flush()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        streams, self._streams = dict(self._streams), {}
        for number in list(self._outgoing):
            self._drop(number)
        for stream in streams.values():
            stream.on_reset(h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._lost()

    def _take(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", 0) or 0
        match event:
            case h2.events.RequestReceived():
                if self._accept is not None:
                    stream = self._streams[number] = self._accept(number)
                    stream.on_headers(event.headers, end=event.stream_ended is not None)
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                if number in self._streams:
                    self._streams[number].on_headers(event.headers, end=event.stream_ended is not None)
            case h2.events.DataReceived():
                received = event.flow_controlled_length or 0
                if number in self._streams:
                    self._streams[number].on_data(event.data or b"", received, end=event.stream_ended is not None)
                else:
                    self.acknowledge(number, received)
            case h2.events.StreamReset():
                stream_gone = self._streams.pop(number, None)
                self._drop(number)
                if stream_gone is not None:
                    stream_gone.on_reset(int(event.error_code or 0))
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for waiting in [number] if number else list(self._outgoing):
                    self._pump(waiting)
            case h2.events.ConnectionTerminated():
                self.closed = True  # what is asked next goes by another connection
                self._give_up_after(event.last_stream_id or 0)

    def _give_up_after(self, last: int) -> None:
        """What this end has asked after that stream was not looked at, and never will be."""
        for number in [number for number in self._streams if self._accept is None and number > last]:
            self._drop(number)
            self._streams.pop(number).on_reset(h2.errors.ErrorCodes.REFUSED_STREAM)

    def _pump(self, number: int) -> None:
        outgoing = self._outgoing.get(number)
        if outgoing is None:
            return
        try:
            self._send_waiting(number, outgoing)
        except h2.exceptions.ProtocolError:  # the other end has ended the stream
            self._drop(number)
        self._flush()

    def _drop(self, number: int) -> None:
        """What waits goes nowhere any more; whoever sent it gets its credit back."""
        outgoing = self._outgoing.pop(number, None)
        for _, gone in outgoing.parts if outgoing is not None else ():
            gone()

    def _send_waiting(self, number: int, outgoing: _Outgoing) -> None:
        while outgoing.parts:
            data, gone = outgoing.parts[0]
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if data and room <= 0:
                return
            self._h2.send_data(number, data[:room])
            if len(data) > room:
                outgoing.parts[0] = (data[room:], gone)
            else:
                outgoing.parts.popleft()
                gone()
        if outgoing.end:
            self._outgoing.pop(number, None)
            if outgoing.trailers is not None:
                self._h2.send_headers(number, outgoing.trailers, end_stream=True)
            else:
                self._h2.end_stream(number)

    def _try(self, act: Callable[[], None]) -> None:
        """What comes too late for a stream that has ended changes nothing."""
        try:
            act()
        except h2.exceptions.ProtocolError:
            return
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
