"""`make bench-rollout`: what a promotion in place costs those who ask meanwhile, and how long it takes.

The local overlay's digits, under a steady load: versions 1 and 2 are promoted in turns, each round with 10 s of load
before. Rewrites the table between the markers in benchmarks/README.md, and rollout.png.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from report import machine, spread, write_section
from rollout_plot import draw

from whimbrel.cli import one_machine, rollout
from whimbrel.cli.console import progress_out
from whimbrel.cli.up import DEFAULT_MANIFESTS, engine_settings
from whimbrel.core import logs
from whimbrel.core.tensors import VERSION_HEADER
from whimbrel.kube.client import client
from whimbrel.kube.kinds import MODEL_ROLLOUT
from whimbrel.local.engine import Engine
from whimbrel.mlflow import registry_view
from whimbrel.mlflow.recipes.digits import held_out
from whimbrel.mlflow.rollout.policy import parse_policy, seconds
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, parse

ROUNDS = 3
RATE = 25  # requests a second, one after the other begun, whether those before are answered or not
BEFORE_SECONDS = 10.0
AFTER_SECONDS = 5.0
BEGIN, END = "<!-- rollout: written by `make bench-rollout` -->", "<!-- /rollout -->"
POLICY = """
backtest: {objects: 150, gates: {accuracy: {allowed: 0.05, tolerance: 0.15}, errors: {allowed: 0.005, tolerance: 0.05}}}
steps: [{percent: 20, dwell: 3s, samples: 20}, {percent: 50, dwell: 3s, samples: 20}]
gates: {accuracy: {allowed: 0.05, tolerance: 0.15}, errors: {allowed: 0.005, tolerance: 0.05}}
shadowsPerSecond: 10
"""
DWELL_SECONDS = sum(seconds(step.dwell) for step in parse_policy(yaml.safe_load(POLICY), "policy").steps)


@dataclass(frozen=True, slots=True)
class Answer:
    """When it was asked for (Unix time) and after how many milliseconds it came; `version` is empty where none did."""

    at: float
    milliseconds: float
    status: int
    version: str


@dataclass
class Round:
    """`phases`: names and when each began, "before" and "after" among them; `moved`: when the alias was."""

    answers: list[Answer] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    moved: float = 0.0
    candidate: str = ""

    @property
    def seconds(self) -> float:
        """From the alias to the last answer of the version before, less the dwell."""
        last = max(each.at + each.milliseconds / 1000 for each in self.answers if each.version != self.candidate)
        return last - self.moved - DWELL_SECONDS

    @property
    def failed(self) -> int:
        return sum(each.status != httpx.codes.OK for each in self.answers)

    def p99_by_phase(self) -> dict[str, float]:
        """In milliseconds, of the requests that were begun in it."""
        begins = [begin for _, begin in self.phases]
        by_phase: dict[str, list[float]] = {}
        for each in self.answers:
            name = self.phases[max(0, bisect_right(begins, each.at) - 1)][0]
            by_phase.setdefault(name, []).append(each.milliseconds)
        return {name: float(np.percentile(by_phase[name], 99)) for name, _ in self.phases if name in by_phase}


async def measure() -> list[Round]:
    with tempfile.TemporaryDirectory() as folder:
        state, policy = Path(folder) / "state", Path(folder) / "policy.yaml"
        await asyncio.to_thread(policy.write_text, POLICY)
        async with one_machine.started(engine_settings(state, DEFAULT_MANIFESTS), quiet=True) as engine:
            return [await _round(engine, state, policy, number) for number in range(ROUNDS)]


async def _round(engine: Engine, state: Path, policy: Path, number: int) -> Round:
    made, name = Round(candidate="2" if number % 2 == 0 else "1"), f"round-{number}"
    registry = engine.status()["environment"]["WHIMBREL_MLFLOW_TRACKING_URI"]
    places: dict[str, Any] = {"kubeconfig": str(engine.kubeconfig), "state": state}
    async with _load(engine, made):
        made.phases.append(("before", time.time()))
        await asyncio.sleep(BEFORE_SECONDS)
        made.moved = time.time()
        await asyncio.to_thread(registry_view.set_alias, registry, "digits", "challenger", made.candidate)
        await asyncio.to_thread(rollout.start, "digits@challenger", policy=policy, name=name, **places)
        ended = await _ended(engine, name)
        await asyncio.sleep(AFTER_SECONDS)
    for entry in ended.status.history:
        made.phases.append((f"{entry.phase} {entry.percent}%", entry.time.timestamp()))
    progress_out.print(f"round {number + 1}: {made.seconds:.1f} s, {made.failed} of {len(made.answers)} failed")
    return made


async def _ended(engine: Engine, name: str) -> ModelRollout:
    async with client(str(engine.kubeconfig)) as cluster:
        while not (found := parse(await cluster.get(MODEL_ROLLOUT, name, "default"))).ended:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    assert found.status.phase is Phase.PROMOTED, found.status.message
    return found


@asynccontextmanager
async def _load(engine: Engine, into: Round) -> AsyncIterator[None]:
    picture, asked = held_out()[0].png, set[asyncio.Task[None]]()
    headers = {"host": "digits.default.localhost", "content-type": "image/png"}
    gateway = engine.status()["endpoints"]["gateway"]

    async def ask(http: httpx.AsyncClient) -> None:
        at, begun = time.time(), time.perf_counter()
        try:
            answer = await http.post("/v1/models/digits:predict", content=picture)
            status, version = answer.status_code, answer.headers.get(VERSION_HEADER, "")
        except httpx.HTTPError:
            status, version = 0, ""
        into.answers.append(Answer(at, 1000 * (time.perf_counter() - begun), status, version))

    async def keep_asking(http: httpx.AsyncClient) -> None:
        due = time.perf_counter()
        while True:
            due += 1 / RATE
            await asyncio.sleep(due - time.perf_counter())
            asked.add(asyncio.create_task(ask(http)))

    async with httpx.AsyncClient(base_url=gateway, headers=headers, timeout=60, trust_env=False) as http:
        for _ in range(RATE):  # connections and code are warm then
            await ask(http)
        into.answers.clear()
        asking = asyncio.create_task(keep_asking(http))
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.gather(*asked)


def report(rounds: Sequence[Round]) -> str:
    tails = [each.p99_by_phase() for each in rounds]
    phases = [name for name, _ in rounds[0].phases if all(name in tail for tail in tails)]
    lasted = [dict(zip(*_lengths(each), strict=True)) for each in rounds]
    requests = sum(len(each.answers) for each in rounds)
    rows = [
        f"| {name} | {spread([each[name] for each in lasted], 1)} | {spread([tail[name] for tail in tails])} | "
        f"{spread([tail[name] / tail['before'] for tail in tails], 2)} |"
        for name in phases
    ]
    return "\n".join(
        [
            f"{machine('torch')} {ROUNDS} promotions in place under {RATE} requests/s, by a policy that dwells "
            f"{DWELL_SECONDS:g} s in all; median (least to most).",
            "",
            f"From the alias to the last answer of the version before, less the dwell: "
            f"**{spread([each.seconds for each in rounds], 1)} s**. "
            f"Requests that failed: **{sum(each.failed for each in rounds)} of {requests}**.",
            "",
            "| Phase | seconds | p99, ms | p99 / p99 before |",
            "|---|---|---|---|",
            *rows,
            "",
            "![latency of every request of one promotion](rollout.png)",
        ]
    )


def _lengths(of: Round) -> tuple[list[str], list[float]]:
    begins = [begin for _, begin in of.phases] + [max(each.at for each in of.answers)]
    return [name for name, _ in of.phases], [after - begin for begin, after in pairwise(begins)]


def main() -> None:
    logs.configure("bench", "error")
    rounds: list[Round] = []

    async def run() -> None:
        rounds.extend(await measure())

    if not one_machine.run_until_stopped(run()):
        raise SystemExit(130)
    text = report(rounds)
    shown = rounds[0]
    draw([(each.at, each.milliseconds, each.version) for each in shown.answers], shown.phases)
    write_section(BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
