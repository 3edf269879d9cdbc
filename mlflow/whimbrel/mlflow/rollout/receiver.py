"""Receives the registry's webhooks over HTTP: a genuine one wakes whoever looks at the aliases, and that is all.

What is done is decided by what the registry says when it is asked, so a webhook that is forged, repeated or late could
only ever make somebody look once more; and one that is lost is made good by the poll.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from whimbrel.core.errors import InputRefused, NotFound, PayloadTooLarge, SettingsError, WhimbrelError
from whimbrel.core.sockets import listening_socket
from whimbrel.mlflow.rollout.webhook import MAX_BODY_BYTES, MovedAlias, Verification

if TYPE_CHECKING:
    import socket

    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

PATH: Final = "/webhooks/mlflow"
BODY_SECONDS: Final = 10.0
AT_ONCE: Final = 32
GRACE_SECONDS: Final = 2


class Receiver:
    """An ASGI application. `moved` is told of each alias that was moved, and must return at once."""

    def __init__(self, secret: str, moved: Callable[[MovedAlias], None]) -> None:
        self._verification, self._moved = Verification(secret), moved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = 200, await self._answer(scope, receive)
        except WhimbrelError as error:
            logger.warning("webhook refused: %s", error)
            answer = error.status, error.body()
        await _send(send, *answer)

    async def _answer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        if scope["path"] != PATH:
            raise NotFound(f"expected {PATH}, seen {scope['path'][:100]!r}")
        if scope["method"] != "POST":
            raise _NotPost(f"expected POST, seen {scope['method'][:20]}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        moved = self._verification.announced(headers, await _body(receive), time.time())
        if moved is not None:
            self._moved(moved)
        return {"announced": moved is not None}


class _NotPost(InputRefused):
    status = 405


class _TooSlow(InputRefused):
    status = 408


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise PayloadTooLarge(f"expected a webhook of at most {MAX_BODY_BYTES} bytes, seen more")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _TooSlow(f"expected a webhook's body within {BODY_SECONDS:g} s, seen a part of it") from None


async def _send(send: Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def listen(host: str, port: int) -> socket.socket:
    """Raises SettingsError."""
    try:
        return listening_socket(host, port)
    except OSError as error:
        raise SettingsError(
            f"expected to listen on {host}:{port} for webhooks (--webhook-port): {error.strerror}; choose another port"
        ) from None


async def serve(receiver: Receiver, listener: socket.socket) -> None:
    """Until cancelled; what was received by then is answered."""
    config = uvicorn.Config(
        receiver,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        limit_concurrency=AT_ONCE,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    logger.info("listening for webhooks", extra={"webhook_port": listener.getsockname()[1]})
    with listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """Ends with the controller, whose signals are its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
