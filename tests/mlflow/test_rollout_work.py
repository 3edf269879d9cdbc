"""What a rollout does beside moving traffic: what fails is begun again, later and later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from whimbrel.core.errors import Unavailable
from whimbrel.mlflow.rollout.evidence_store import EvidenceStore
from whimbrel.mlflow.rollout.resource import Phase, Spec, Status, new, parse
from whimbrel.mlflow.rollout.work import Asking, Work, pause_after

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.anyio


def test_pauses_grow_to_a_minute() -> None:
    assert [pause_after(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_a_backtest_that_fails_is_not_begun_again_in_the_next_round(
    s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whimbrel.mlflow.rollout.work.pause_after", lambda _: 3600.0)
    versions = [{"version": n, "uri": f"s3://models/{n}", "digest": f"sha256:{n * 64}"} for n in ("1", "2")]
    given = {
        "model": "digits",
        "inferenceService": "digits",
        "champion": versions[0],
        "candidate": versions[1],
        "pointer": "s3://models/pointer.json",
        "knownObjects": "s3://models/known.jsonl",
        "evidence": f"s3://{bucket}/evidence",
    }
    document = new("default", "digits-2", Spec.model_validate(given))
    document["metadata"]["uid"] = "1234"
    asked = asyncio.Semaphore(0)

    async def ask() -> Asking | None:
        asked.release()
        raise Unavailable("expected the champion to answer")

    async def see(_: object) -> None:
        return None

    rollout = parse(document)
    work = Work(rollout.spec, ask, see, EvidenceStore(s3, rollout.spec.evidence, rollout.uid))

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
