"""Asks both versions about the same objects, through the transformer that serves: what the backtest and the shadows do.

Each request names the version that it asks, so it costs no share of the traffic and makes no result.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from whimbrel.core.errors import Unavailable
from whimbrel.core.tensors import DIGEST_HEADER, TAG_HEADER, VERSION_HEADER
from whimbrel.mlflow.rollout.gates import Answer
from whimbrel.mlflow.rollout.known_objects import KnownObject

AT_ONCE: Final = 4
TRIES: Final = 3
TIMEOUT_SECONDS: Final = 30.0
MAX_REASON: Final = 300
LOADING_SECONDS: Final = 60.0  # a replica that has just started is ready before it holds the candidate: 404 until then
NOTHING: Final = {"label": "", "score": 0.0}
_BUSY: Final = frozenset({409, 429, 503})  # not 502: the end of the asked one's process, which is its failure
_WAIT_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both said of one object. `time` is Unix time."""

    time: float
    uri: str
    truth: str | None
    champion: Answer
    candidate: Answer


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go; `host` is the name that they are sent to, where it is another."""

    url: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the two: the `version` that a request names, the `digest` of the package that has to answer it, and the
    `tag` of its revision where the two are revisions."""

    version: str
    digest: str
    tag: str | None = None


class Comparing:
    """Of one InferenceService at `place`; `client` belongs to the caller."""

    def __init__(self, client: httpx.AsyncClient, place: Place, model: str, champion: Asked, candidate: Asked) -> None:
        self._client, self._url = client, f"{place.url.rstrip('/')}/v1/models/{model}:predict"
        self._headers = {"host": place.host} if place.host else {}
        self._champion, self._candidate = champion, candidate

    async def each(self, objects: Iterable[KnownObject], per_second: float) -> AsyncIterator[Comparison]:
        """In any order, at most `per_second` objects a second begun, AT_ONCE at a time.

        Raises Unavailable where another package answers than the one that was asked.
        """
        running: set[asyncio.Task[Comparison]] = set()
        now = asyncio.get_running_loop().time
        due = now()
        try:
            for number, known in enumerate(objects):
                await asyncio.sleep(due - now())
                due = max(due, now()) + 1 / per_second
                task = asyncio.create_task(self._compare(known, champion_first=number % 2 == 0))
                task.add_done_callback(_read)
                running.add(task)
                while len(running) >= AT_ONCE:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
            for ended in asyncio.as_completed(running):
                yield await ended
        finally:
            for task in running:
                task.cancel()

    async def _compare(self, known: KnownObject, *, champion_first: bool) -> Comparison:
        """One after the other, in turns the first: who comes second finds the object in the store's cache."""
        order = (self._champion, self._candidate) if champion_first else (self._candidate, self._champion)
        answers = {asked: await self._ask(known, asked) for asked in order}
        return Comparison(time.time(), known.uri, known.label, answers[self._champion], answers[self._candidate])

    async def _ask(self, known: KnownObject, asked: Asked) -> Answer:
        given_up = time.monotonic() + LOADING_SECONDS
        for tries in itertools.count(1):
            begun = time.perf_counter()
            response = await self._post({"instances": [{"s3": known.uri}]}, asked)
            milliseconds = (time.perf_counter() - begun) * 1000
            loading = response is not None and response.status_code == httpx.codes.NOT_FOUND
            busy = response is not None and response.status_code in _BUSY and tries < TRIES
            if not busy and not (loading and time.monotonic() < given_up):
                break
            await asyncio.sleep(_WAIT_SECONDS * min(tries, 5))
        best = _best(response)
        if best is None:
            return Answer(None, None, milliseconds, failed=True, reason=_reason(response))
        seen = response.headers.get(DIGEST_HEADER) if response is not None else None
        if seen != asked.digest:
            raise Unavailable(f"expected version {asked.version}, {asked.digest}, to answer, seen {seen}")
        return Answer(str(best["label"]), float(best["score"]), milliseconds)

    async def _post(self, document: dict[str, Any], asked: Asked) -> httpx.Response | None:
        named = {VERSION_HEADER: asked.version} | ({TAG_HEADER: asked.tag} if asked.tag else {})
        try:
            return await self._client.post(
                self._url, json=document, headers=self._headers | named, timeout=TIMEOUT_SECONDS
            )
        except httpx.HTTPError:
            return None


def _read(task: asyncio.Task[Comparison]) -> None:
    """Of several that fail alike, the first one is told of."""
    if not task.cancelled():
        task.exception()


def _reason(response: httpx.Response | None) -> str:
    if response is None:
        return "no answer"
    return f"status {response.status_code}: {response.text[:MAX_REASON]}"


def _best(response: httpx.Response | None) -> dict[str, Any] | None:
    """The best prediction of a V1 answer, `NOTHING` where a detector found no object; None for anything else."""
    if response is None or response.status_code != httpx.codes.OK:
        return None
    try:
        (predictions,) = response.json()["predictions"]
        best = predictions[0] if predictions else NOTHING
        return best if {"label", "score"} <= best.keys() else None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
