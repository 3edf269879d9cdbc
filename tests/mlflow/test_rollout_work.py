"""What a rollout does beside moving traffic: what fails is begun again, later and later."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.answering import Answer, answering
from whimbrel.core.errors import Unavailable
from whimbrel.core.tensors import DIGEST_HEADER
from whimbrel.mlflow.rollout.comparing import Asked, Comparing, Place
from whimbrel.mlflow.rollout.evidence_store import EvidenceStore
from whimbrel.mlflow.rollout.known_objects import KnownObject
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec, Status, new, parse
from whimbrel.mlflow.rollout.work import Asking, Work, pause_after

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.anyio


def test_pauses_grow_to_a_minute() -> None:
    assert [pause_after(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def a_rollout(bucket: str, **policy: Any) -> ModelRollout:
    versions = [{"version": n, "uri": f"s3://models/{n}", "digest": f"sha256:{n * 64}"} for n in ("1", "2")]
    given = {
        "model": "digits",
        "inferenceService": "digits",
        "champion": versions[0],
        "candidate": versions[1],
        "pointer": "s3://models/pointer.json",
        "knownObjects": "s3://models/known.jsonl",
        "evidence": f"s3://{bucket}/evidence",
        "policy": policy,
    }
    document = new("default", "digits-2", Spec.model_validate(given))
    document["metadata"]["uid"] = "1234"
    return parse(document)


async def sees_nothing(_: object) -> None:
    return None


async def test_a_backtest_that_fails_is_not_begun_again_in_the_next_round(
    s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whimbrel.mlflow.rollout.work.pause_after", lambda _: 3600.0)
    asked = asyncio.Semaphore(0)

    async def ask() -> Asking | None:
        asked.release()
        raise Unavailable("expected the champion to answer")

    rollout = a_rollout(bucket)
    work = Work(rollout.spec, ask, sees_nothing, EvidenceStore(s3, rollout.spec.evidence, rollout.uid))

    def follow(phase: Phase) -> None:
        work.follow(rollout.model_copy(update={"status": Status(phase=phase)}))

    for phase in (Phase.BACKTEST, Phase.LOADING, Phase.BACKTEST):
        follow(phase)  # another phase begins at once
        if phase is Phase.BACKTEST:
            await asyncio.wait_for(asked.acquire(), 60)
            assert work._task is not None
            await work._task
            assert work.trouble == "expected the champion to answer"
            follow(phase)
            assert work._task is None
    await work.stop()


async def test_shadows_that_went_on_for_a_while_begin_with_the_shortest_pause_again(
    s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time nobody can be asked; the second time the answers are another package's after some good ones."""
    paused: list[int] = []
    body = json.dumps({"predictions": [[{"label": "cat", "score": 0.5}]]}).encode()
    monkeypatch.setattr("whimbrel.mlflow.rollout.work.SHADOW_SECONDS", 0.0)
    rollout = a_rollout(bucket, shadowsPerSecond=100)
    rollout = rollout.model_copy(update={"status": Status(phase=Phase.CANARY)})

    def pause(failures: int) -> float:
        paused.append(failures)
        return 0.0

    monkeypatch.setattr("whimbrel.mlflow.rollout.work.pause_after", pause)

    def answer(index: int) -> Answer:
        return Answer(body=body, headers={DIGEST_HEADER: "sha256:1" if index < 8 else "sha256:2"})

    with answering(answer) as server:
        async with httpx.AsyncClient() as client:

            async def ask() -> Asking:
                if not paused:
                    raise Unavailable("expected an address")
                both = Asked("1", "sha256:1"), Asked("2", "sha256:1")
                return Asking(
                    Comparing(client, Place(server.url), "digits", *both), (KnownObject(uri="s3://photos/a.png"),)
                )

            work = Work(rollout.spec, ask, sees_nothing, EvidenceStore(s3, rollout.spec.evidence, rollout.uid))
            for _ in range(2):
                work.follow(rollout)
                assert work._task is not None
                await asyncio.wait_for(work._task, 60)
            await work.stop()
    assert "to answer, seen sha256:2" in (work.trouble or "")
    assert paused == [1, 1]
