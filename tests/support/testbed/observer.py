"""The hands and eyes of a test within a cluster: keeps events, answers as they ask, posts others, stands for a store.

A pod runs this file by `python -c`, without this project. A cluster's gateway shows it to whoever reaches that, so what
only the test does needs the token of $OBSERVER_TOKEN (marked with *):

    POST /answers          an event of type `either.answer.STATUS` or, for the first N attempts only, `...STATUS.N`
    POST /results, /dead-letters
    GET /seen *            all of them, oldest first
    POST /forward *        posts the event to the address in `forward-to`, and passes on the answer's status
    PUT * GET, HEAD        of /photos/KEY
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections import Counter
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web
from aiohttp.typedefs import Handler

_LONGEST_SECONDS = 300


class Observer:
    def __init__(self) -> None:
        self._seen: list[dict[str, Any]] = []
        self._attempts: Counter[str] = Counter()
        self._objects: dict[str, bytes] = {}

    async def keep(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = base64.b64encode(await request.read()).decode()
        self._seen.append({"path": request.path, "headers": headers, "body": body})
        return web.Response(status=204)

    async def answer(self, request: web.Request) -> web.Response:
        await self.keep(request)
        self._attempts[request.headers["ce-id"]] += 1
        status, _, failures = request.headers["ce-type"].removeprefix("either.answer.").partition(".")
        if failures and self._attempts[request.headers["ce-id"]] > int(failures):
            return web.Response(status=204)
        return web.Response(status=int(status))

    async def seen(self, _: web.Request) -> web.Response:
        return web.json_response(self._seen)

    async def forward(self, request: web.Request) -> web.Response:
        headers = {
            name: value for name, value in request.headers.items() if name.lower().startswith(("ce-", "content-t"))
        }
        async with (
            ClientSession(timeout=ClientTimeout(_LONGEST_SECONDS)) as session,
            session.post(request.headers["forward-to"], data=await request.read(), headers=headers) as answer,
        ):
            return web.Response(status=answer.status, text=await answer.text())

    async def put(self, request: web.Request) -> web.Response:
        self._objects[request.match_info["key"]] = await request.read()
        return web.Response()

    async def get(self, request: web.Request) -> web.Response:
        content = self._objects.get(request.match_info["key"])
        if content is None:
            missing = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
            return web.Response(status=404, text=missing, content_type="application/xml")
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return web.Response(body=content, headers={"etag": f'"{etag}"'})


@web.middleware
async def ask_for_token(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path in ("/seen", "/forward") or request.method == "PUT":
        expected = f"Bearer {os.environ['OBSERVER_TOKEN']}"
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected.encode()):
            return web.Response(status=401)
    return await handler(request)


async def healthy(_: web.Request) -> web.Response:
    return web.Response()


def application() -> web.Application:
    observer, found = Observer(), web.Application(middlewares=[ask_for_token])
    found.router.add_post("/answers", observer.answer)
    found.router.add_post("/results", observer.keep)
    found.router.add_post("/dead-letters", observer.keep)
    found.router.add_get("/seen", observer.seen)
    found.router.add_post("/forward", observer.forward)
    found.router.add_put("/photos/{key}", observer.put)
    found.router.add_get("/photos/{key}", observer.get)  # HEAD as well
    found.router.add_get("/healthz", healthy)
    return found


if __name__ == "__main__":
    host, port = os.environ.get("WHIMBREL_HTTP_HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080"))
    web.run_app(application(), host=host, port=port, print=None)
