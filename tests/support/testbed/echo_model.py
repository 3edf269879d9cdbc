"""`python -m testbed.echo_model`: a model server with extra routes, each for one thing that the server does."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from whimbrel.core import logs
from whimbrel.core.errors import QuotaExceeded, WhimbrelError
from whimbrel.core.kserve_sdk import InferOutput, InferRequest, InferResponse, Model
from whimbrel.core.model_server import ModelServerSettings, run
from whimbrel.core.settings import load

logger = logging.getLogger("echo")


class EchoModel(Model):  # type: ignore[misc]
    async def predict(self, payload: Any, headers: Any = None) -> Any:
        if not isinstance(payload, InferRequest):
            return {"predictions": payload["instances"] if isinstance(payload, dict) else len(payload)}
        outputs = [
            InferOutput(f"echo-{entry.name}", entry.shape, entry.datatype, entry.as_numpy()) for entry in payload.inputs
        ]
        return InferResponse(payload.id, self.name, outputs, use_binary_outputs=payload.use_binary_outputs)


async def length(request: Request) -> Response:
    logger.info("measured")
    return PlainTextResponse(str(len(await request.body())))


async def quota(_: Request) -> Response:
    raise QuotaExceeded("expected fewer, seen more", retry_after_seconds=7)


async def bug(_: Request) -> Response:
    raise KeyError("secret detail")


async def hang(_: Request) -> Response:
    """A thread that nobody can end."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return Response()


async def wait(request: Request) -> Response:
    await request.body()
    try:
        logger.info("waiting")
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        logger.info("cancelled")
        raise
    return Response()


def main() -> None:
    settings = load(ModelServerSettings, sys.argv[1:], program="echo")
    logs.configure("echo", settings.log_level)
    model = EchoModel("echo")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        model.ready = True
        yield
        logger.info("left")

    routes = [Route(f"/{route.__name__}", route, methods=["POST"]) for route in (length, quota, bug, hang, wait)]
    try:
        run([model], settings, routes=routes, lifespan=lifespan)
    except WhimbrelError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
