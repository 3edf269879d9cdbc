"""What stands before a Kafka cluster that asks who one is: TLS, client certificates, SASL; the mock cluster has none.

It passes on every request but those of the authentication, which it answers itself, and puts its own ports where the
cluster names its brokers. Formats: Kafka's protocol guide (SaslHandshake, SaslAuthenticate, ApiVersions); SCRAM is
RFC 5802 with SHA-256 or SHA-512.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
import ssl
import struct
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.kafka import Kafka

_HANDSHAKE, _API_VERSIONS, _AUTHENTICATE = 17, 18, 36
_UNSUPPORTED_VERSION, _UNSUPPORTED_MECHANISM, _AUTHENTICATION_FAILED = 35, 33, 58
_ITERATIONS = 4096


@dataclass(frozen=True)
class User:
    name: str
    password: str
    mechanism: str  # PLAIN, SCRAM-SHA-256, SCRAM-SHA-512


@contextmanager
def secured(
    kafka: Kafka, certificate: tuple[Path, Path], user: User | None = None, client_ca: Path | None = None
) -> Iterator[Kafka]:
    """The cluster behind TLS. `user`: who gets in, by SASL; `client_ca`: what has to have signed a client's
    certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    front = _Front(kafka.brokers.split(","), context, user)
    try:
        yield Kafka(asyncio.run_coroutine_threadsafe(front.start(), loop).result(10))
    finally:
        asyncio.run_coroutine_threadsafe(front.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class _Front:
    def __init__(self, brokers: list[str], context: ssl.SSLContext, user: User | None) -> None:
        self._brokers, self._context, self._user = brokers, context, user
        self._ports: dict[int, int] = {}  # a broker's port -> ours for it
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """HOST:PORT of each broker, as clients reach it."""
        for broker in self._brokers:
            port = int(broker.rpartition(":")[2])
            server = await asyncio.start_server(
                lambda reader, writer, port=port: self._accept(reader, writer, port),  # type: ignore[misc]
                "127.0.0.1",
                0,
                ssl=self._context,
            )
            self._servers.append(server)
            self._ports[port] = server.sockets[0].getsockname()[1]
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # The client has left, or did not get in; or it is the end of the front.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer, port)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        versions_asked: set[bytes] = set()  # correlation ids
        back = asyncio.create_task(self._pass_back(behind, writer, versions_asked))
        try:
            entrance = _Entrance(self._user)
            while True:
                frame = await _frame(reader)
                api, version, correlation = struct.unpack(">hh4s", frame[:8])
                if api == _API_VERSIONS and version == 0:
                    versions_asked.add(correlation)
                elif api == _API_VERSIONS or (self._user is not None and api in {_HANDSHAKE, _AUTHENTICATE}):
                    _send(writer, correlation + entrance.answer(api, frame))
                    continue
                elif not entrance.passed:
                    return
                _send(ahead, frame)
        finally:
            back.cancel()
            ahead.close()

    async def _pass_back(
        self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, versions_asked: set[bytes]
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                answer = await _frame(behind)
                if answer[:4] in versions_asked:
                    versions_asked.discard(answer[:4])
                    answer = _with_authentication(answer)
                for theirs, ours in self._ports.items():
                    answer = answer.replace(_address(theirs), _address(ours))
                _send(writer, answer)


class _Entrance:
    """The authentication of one connection."""

    def __init__(self, user: User | None) -> None:
        self._user, self.passed = user, user is None
        self._exchange = _exchange(user) if user is not None else None

    def answer(self, api: int, frame: bytes) -> bytes:
        """Behind the correlation id."""
        if api == _API_VERSIONS:  # a newer form: the client falls back to the first
            return struct.pack(">hi", _UNSUPPORTED_VERSION, 0)
        assert self._user is not None and self._exchange is not None
        payload = _after_header(frame)
        if api == _HANDSHAKE:
            known = self._user.mechanism.encode()
            fault = 0 if payload[2:] == known else _UNSUPPORTED_MECHANISM
            return struct.pack(">hih", fault, 1, len(known)) + known
        try:
            said = self._exchange.send(payload[4:])
        except StopIteration as end:
            said, self.passed = end.value or b"", end.value is not None
            if not self.passed:
                why = b"wrong user or password"
                return struct.pack(">hh", _AUTHENTICATION_FAILED, len(why)) + why + struct.pack(">i", 0)
        return struct.pack(">hhi", 0, -1, len(said)) + said


def _exchange(user: User) -> Generator[bytes, bytes, bytes | None]:
    """Takes what the client says, gives what it is told; returns the last word, or None for who does not get in."""
    exchange = _plain(user) if user.mechanism == "PLAIN" else _scram(user)
    next(exchange)
    return exchange


def _plain(user: User) -> Generator[bytes, bytes, bytes | None]:
    _, name, password = (yield b"").split(b"\0")
    return b"" if (name, password) == (user.name.encode(), user.password.encode()) else None


def _scram(user: User) -> Generator[bytes, bytes, bytes | None]:
    kind = user.mechanism.removeprefix("SCRAM-").replace("-", "").lower()
    first = (yield b"").removeprefix(b"n,,")
    given = _attributes(first)
    salt, nonce = secrets.token_bytes(16), given[b"r"] + secrets.token_hex(12).encode()
    challenge = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt), _ITERATIONS)
    final = yield challenge
    proof = base64.b64decode(_attributes(final)[b"p"])
    signed = b",".join((first, challenge, final.rpartition(b",p=")[0]))
    salted = hashlib.pbkdf2_hmac(kind, user.password.encode(), salt, _ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", kind)
    signature = hmac.digest(hashlib.new(kind, client_key).digest(), signed, kind)
    wanted = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    if given[b"n"] != user.name.encode() or not hmac.compare_digest(proof, wanted):
        return None
    return b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", kind), signed, kind))


def _attributes(message: bytes) -> dict[bytes, bytes]:
    return {part[:1]: part[2:] for part in message.split(b",")}


def _with_authentication(answer: bytes) -> bytes:
    """ApiVersions, first form: the cluster's own requests, and the two that are answered here."""
    (count,) = struct.unpack(">i", answer[6:10])
    added = struct.pack(">hhhhhh", _HANDSHAKE, 0, 1, _AUTHENTICATE, 0, 0)
    return answer[:6] + struct.pack(">i", count + 2) + answer[10:] + added


def _after_header(frame: bytes) -> bytes:
    (length,) = struct.unpack(">h", frame[8:10])
    return frame[10 + max(0, length) :]


def _address(port: int) -> bytes:
    return b"127.0.0.1" + struct.pack(">i", port)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
