"""`make bench-api`: 1,000 objects stored in the one-machine API server and watched, against sqlite and HTTPS alone.

One server a round, in a process of its own; one client writes, some watch. Rewrites the table between the markers in
benchmarks/README.md.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from report import machine, spread, write_section

OBJECTS = 1_000
WATCHERS = (0, 1, 20)
ROUNDS = 3
BEGIN, END = "<!-- api: written by `make bench-api` -->", "<!-- /api -->"
PATH = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


@dataclass
class Round:
    """Milliseconds a request, by what was asked; and what the server needed."""

    times: dict[str, list[float]] = field(default_factory=dict)
    restart_seconds: float = 0.0
    memory_mib: float = 0.0


def an(number: int) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": "whimbrel/predictors:0.1.0",
        "args": ["--model-name=digits", "--model-uri=models:/digits@champion"],
        "env": [{"name": f"WHIMBREL_SETTING_{index}", "value": "something"} for index in range(10)],
        "ports": [{"containerPort": 8080}],
    }
    metadata = {"name": f"digits-{number:04}", "labels": {"number": str(number % 10)}}
    return {"metadata": metadata, "spec": {"predictor": {"containers": [container], "timeout": 60}}}


@contextmanager
def server(state: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    command = [sys.executable, "-m", "whimbrel.local.api", "--state", str(state)]
    (state / "kubeconfig").unlink(missing_ok=True)
    with (state / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with closing(opened(state)) as client:
                yield process, client
        finally:
            process.terminate()


def connection(state: Path) -> dict[str, Any]:
    found = json.loads((state / "kubeconfig").read_text())
    cluster = found["clusters"][0]["cluster"]
    context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    headers = {"authorization": f"Bearer {found['users'][0]['user']['token']}"}
    return {"base_url": cluster["server"], "verify": context, "headers": headers, "timeout": 60}


def opened(state: Path) -> httpx.Client:
    deadline = time.monotonic() + 30
    while True:
        try:
            client = httpx.Client(**connection(state))
            client.get("/readyz").raise_for_status()
        except (OSError, ValueError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return client


class Watchers:
    """Clients that watch all objects on a thread of their own; `seen`: when each object came to the last of them."""

    def __init__(self, state: Path, count: int) -> None:
        self._state, self._count = state, count
        self._ready, self._done = threading.Event(), threading.Event()
        self._open = 0
        self.seen: dict[str, list[float]] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch_all()))

    def __enter__(self) -> Watchers:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._done.wait(120), "events are missing"
        self._thread.join()

    async def _watch_all(self) -> None:
        async with httpx.AsyncClient(**connection(self._state), limits=httpx.Limits(max_connections=None)) as client:
            if not self._count:
                self._ready.set()
            await asyncio.gather(*(self._watch(client) for _ in range(self._count)))
        self._done.set()

    async def _watch(self, client: httpx.AsyncClient) -> None:
        left = OBJECTS
        async with client.stream("GET", PATH, params={"watch": "true"}) as answer:
            self._open += 1
            if self._open == self._count:
                self._ready.set()
            async for line in answer.aiter_lines():
                self.seen.setdefault(json.loads(line)["object"]["metadata"]["name"], []).append(time.perf_counter())
                left -= 1
                if not left:
                    return


def timed(count: int, ask: Callable[[int], httpx.Response | None]) -> tuple[list[float], list[float]]:
    """Milliseconds of each request, and when each began."""
    times, begun = [], []
    for number in range(count):
        begun.append(time.perf_counter())
        answer = ask(number)
        times.append((time.perf_counter() - begun[-1]) * 1000)
        if answer is not None:
            answer.raise_for_status()
    return times, begun


def measure(found: Round, state: Path) -> None:
    with server(state) as (process, client):
        found.times["HTTPS alone (`/readyz`)"] = timed(OBJECTS, lambda _: client.get("/readyz"))[0]
        for count in WATCHERS:
            with Watchers(state, count) as watchers:
                creates, begun = timed(OBJECTS, lambda number: client.post(PATH, json=an(number)))
            found.times[f"create, {count} watching"] = creates
            if count:
                events = [(max(watchers.seen[f"digits-{n:04}"]) - begun[n]) * 1000 for n in range(OBJECTS)]
                found.times[f"start of a create to its event at the last of {count}"] = events
            if count != WATCHERS[-1]:
                client.delete(PATH)
        measure_reads(found, client)
        found.memory_mib = psutil.Process(process.pid).memory_info().rss / 2**20
        process.kill()
    begun_restart = time.perf_counter()
    with server(state) as (_, client):
        assert len(client.get(PATH).json()["items"]) == OBJECTS
        found.restart_seconds = time.perf_counter() - begun_restart


def measure_reads(found: Round, client: httpx.Client) -> None:
    merge = {"content-type": "application/merge-patch+json"}
    status = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    found.times["get one"] = timed(OBJECTS, lambda n: client.get(f"{PATH}/digits-{n:04}"))[0]
    found.times["patch the status of one"] = timed(
        OBJECTS, lambda n: client.patch(f"{PATH}/digits-{n:04}/status", content=status, headers=merge)
    )[0]
    found.times["list all 1,000"] = timed(10, lambda _: client.get(PATH))[0]
    found.times["list all 1,000 as a table (`kubectl get`)"] = timed(10, lambda _: client.get(PATH, headers=TABLE))[0]


def sqlite_alone(state: Path) -> list[float]:
    """The same documents into a table of the same file format, one transaction each."""
    database = sqlite3.connect(state / "alone.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE objects (name TEXT PRIMARY KEY, document TEXT)")

    def insert(number: int) -> None:
        database.execute("INSERT INTO objects VALUES (?, ?)", (str(number), json.dumps(an(number))))

    times, _ = timed(OBJECTS, insert)
    database.close()
    return times


def report(rounds: list[Round]) -> str:
    rows = []
    for what in rounds[0].times:
        medians = [statistics.median(each.times[what]) for each in rounds]
        tails = [statistics.quantiles(each.times[what], n=100)[98] for each in rounds]
        rows.append(f"| {what} | {spread(medians, 2)} | {spread(tails, 2)} |")
    return "\n".join(
        [
            f"{machine('uvicorn', 'starlette')} {OBJECTS} InferenceServices of "
            f"{len(json.dumps(an(0)))} bytes, one client that writes, {ROUNDS} rounds; median (least to most).",
            "",
            "| What | p50, ms | p99, ms |",
            "|---|---|---|",
            *rows,
            "",
            f"Killed and started again until it has listed all of them: "
            f"{spread([each.restart_seconds for each in rounds], 2)} s. Resident memory of the server: "
            f"{spread([each.memory_mib for each in rounds])} MiB.",
        ]
    )


def main() -> None:
    rounds = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found = Round({"sqlite alone, one row": sqlite_alone(Path(folder))})
            measure(found, Path(folder))
        rounds.append(found)
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    text = report(rounds)
    print(text)
    write_section(BEGIN, END, text)


if __name__ == "__main__":
    main()
