"""Evidence from live traffic: from a real store's results and dead letters, and from a real Prometheus."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from testbed.answering import Answer, answering
from testbed.predictors import null_images, running_predictor, v2_document
from testbed.prometheus import needs_prometheus, prometheus
from whimbrel.core.errors import NotFound, Unavailable
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import (
    ANSWER,
    DeadLetter,
    DeadLetterError,
    Prediction,
    Result,
    ResultEvent,
    ResultModel,
    ResultObject,
    dump,
)
from whimbrel.core.tensors import MODEL_VERSION
from whimbrel.local.state import free_port
from whimbrel.mlflow.rollout.evidence import Bet
from whimbrel.mlflow.rollout.live import Live, LiveLatency, LiveSource
from whimbrel.mlflow.rollout.live_results import ResultsSource, Walk
from whimbrel.mlflow.rollout.prometheus import PrometheusSource, parse_samples
from whimbrel.predictors.null_network import null_network

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.anyio

DIGESTS = {"sha256:" + "1" * 64: "1", "sha256:" + "2" * 64: "2"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOBODYS = ("sha256:" + "3" * 64, "finches")


def write_result(
    s3: S3Client, bucket: str, key: str, version: str, milliseconds: float, *, name: str = "finches", digest: str = ""
) -> None:
    digest = digest or next(each for each, known in DIGESTS.items() if known == version)
    result = Result(
        object=ResultObject(bucket="photos", key=key, etag="abc"),
        event=ResultEvent(id=key, source="s3", time=datetime.now(UTC)),
        model=ResultModel(name=name, version=version, digest=digest),
        predictions=(Prediction(label="tern", index=0, score=0.9),),
        timing_ms={"predict": 1000, ANSWER: milliseconds},
    )
    ResultStore(s3, bucket).write(result)


def write_dead_letter(s3: S3Client, bucket: str, key: str, digest: str | None) -> None:
    error = DeadLetterError(code=503, reason="Unavailable", message="no", model_digest=digest)
    letter = DeadLetter(event={"id": key}, error=error, received=datetime.now(UTC))
    s3.put_object(Bucket=bucket, Key=f"{key}.json", Body=dump(letter))


async def test_results_and_dead_letters_count_once_for_the_version_that_they_name(s3: S3Client, bucket: str) -> None:
    letters = f"{bucket}-letters"
    s3.create_bucket(Bucket=letters)
    source = ResultsSource("finches", DIGESTS, Walk(s3, bucket, LONG_AGO), Walk(s3, letters, LONG_AGO))
    assert (await source.look()).requests == {"results": {"1": (0, 0), "2": (0, 0)}}
    for number in range(3):
        write_result(s3, bucket, f"a{number}", "1", 5)
    write_result(s3, bucket, "b", "2", 40)
    write_result(s3, bucket, "of another service", "2", 99, name="digits")
    write_result(s3, bucket, "of another model", "3", 99, digest=NOBODYS[0])
    s3.put_object(Bucket=bucket, Key=f"photos/{'2' * 64}.json", Body=b"{}")
    for key, digest in (("x", "sha256:" + "2" * 64), ("y", None), ("z", NOBODYS[0])):
        write_dead_letter(s3, letters, key, digest)

    first, second = await source.look(), await source.look()

    assert first.requests == second.requests == {"results": {"1": (3, 0), "2": (1, 1)}}
    assert (first.fresh, second.fresh) == ({"1": {5.0: 3}, "2": {40.0: 1}}, {"1": {}, "2": {}})


async def test_what_was_written_before_is_not_evidence(s3: S3Client, bucket: str) -> None:
    write_result(s3, bucket, "a", "1", 5)
    source = ResultsSource("finches", DIGESTS, Walk(s3, bucket, datetime.now(UTC) + timedelta(hours=1)))
    assert (await source.look()).requests == {"results": {"1": (0, 0), "2": (0, 0)}}


async def test_a_look_costs_the_same_however_large_the_bucket_and_all_is_seen_in_time(
    s3: S3Client, bucket: str
) -> None:
    for number in range(12):
        write_result(s3, bucket, f"key-{number:02d}", "12"[number % 2], 5)  # 24 keys with the latest ones
    calls: Counter[str] = Counter()
    s3.meta.events.register("before-call.s3.*", lambda model, **_: calls.update([model.name]))
    source = ResultsSource("finches", DIGESTS, Walk(s3, bucket, LONG_AGO, pages=2, page_keys=5, most=3))
    most, seen = Counter[str](), 0
    for look in range(20):
        calls.clear()
        live = await source.look()
        most |= calls
        if look == 9:
            write_result(s3, bucket, "a-late-one-before-all", "1", 5)
        seen += sum(sum(each.values()) for each in live.fresh.values())
    assert most == {"ListObjectsV2": 2, "GetObject": 3}
    assert seen == 13
    assert live.requests == {"results": {"1": (7, 0), "2": (6, 0)}}


async def test_a_store_that_fails_is_an_error_and_no_evidence(s3: S3Client, bucket: str) -> None:
    with pytest.raises(NotFound, match="list of s3://no-such-bucket"):
        await ResultsSource("finches", DIGESTS, Walk(s3, "no-such-bucket", LONG_AGO)).look()


def test_latency_is_judged_against_what_the_champion_hardly_ever_is() -> None:
    random = np.random.default_rng(4)

    def answers(scale: float) -> dict[float, int]:
        return dict(Counter(float(each) for each in scale * random.gamma(4, 5, 20)))

    equal, slower = LiveLatency("1", "2"), LiveLatency("1", "2")
    for _ in range(30):
        equal.look({"1": answers(1), "2": answers(1)})
        slower.look({"1": answers(1), "2": answers(2)})
    assert equal.slow.total() == slower.slow.total() == 28 * 20  # two looks have set the limit
    harmful, harmless = Bet(0.1), Bet(0.1)
    harmful.add(slower.slow)
    harmless.add(equal.slow)
    assert (harmful.rejects(0.01), harmless.rejects(0.01)) == (True, False)


def vector(*series: tuple[dict[str, str], str], **changes: Any) -> bytes:
    result = [{"metric": metric, "value": [1.5, value]} for metric, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}} | changes).encode()


BUCKET = {"__name__": "whimbrel_predictor_live_seconds_bucket", "instance": "a:1", "version": "2"}
FAILURES = {"__name__": "whimbrel_predictor_live_failures_total", "instance": "a:1", "version": "2"}


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"[" * 100_000,
        vector(status="error"),
        vector(data={"resultType": "scalar", "result": [1, "2"]}),
        vector(({"version": "2"}, "1")),
        vector((FAILURES, "NaN")),
        vector((FAILURES, "-1")),
        vector((BUCKET, "1")),
        vector((BUCKET | {"le": "wide"}, "1")),
        vector((BUCKET | {"le": "NaN"}, "1")),
    ],
)
def test_another_answer_than_prometheus_documents_is_no_evidence(answer: bytes) -> None:
    with pytest.raises(Unavailable, match="expected an instant vector from Prometheus"):
        parse_samples(answer)


@asynccontextmanager
async def source_at(url: str, versions: Mapping[str, str], selector: str = "") -> AsyncIterator[PrometheusSource]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield PrometheusSource(client, url, "digits", versions, selector)


async def test_a_prometheus_that_is_away_or_refuses_is_told() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    refusal = Answer(422, b'{"status":"error","error":"parse error"}')
    with answering(lambda _: refusal) as refusing:
        for url, said in ((nobody, "expected an answer of Prometheus"), (refusing.url, "seen 422: .*parse error")):
            async with source_at(url, DIGESTS) as source:
                with pytest.raises(Unavailable, match=said):
                    await source.look()


async def test_counts_and_failures_of_each_process_and_durations_since_the_look_before() -> None:
    def said(answered: tuple[int, int], failed: int) -> bytes:
        fast, slow = answered
        buckets = [(BUCKET | {"le": "0.1"}, str(fast)), (BUCKET | {"le": "+Inf"}, str(fast + slow))]
        return vector(*buckets, (FAILURES, str(failed)), (FAILURES | {"version": "9"}, "7"))

    contents = (said((5, 0), 1), said((7, 3), 1), said((1, 0), 0))
    with answering(lambda index: Answer(body=contents[index])) as server:
        async with source_at(server.url, {"1": "1", "2": "2"}) as source:
            looks: list[Live] = [await source.look() for _ in contents]
    (replica,) = looks[0].requests
    assert json.loads(replica) == {"instance": "a:1"}
    assert [each.requests[replica] for each in looks] == [{"2": (5, 1)}, {"2": (10, 1)}, {"2": (1, 0)}]
    assert [each.fresh["2"] for each in looks] == [{}, {100.0: 2, float("inf"): 3}, {100.0: 1}]  # begun anew at last


@needs_prometheus
async def test_a_real_prometheus_tells_the_live_requests_of_both_versions_and_no_named_ones(tmp_path: Path) -> None:
    other, options = "null:10,other", ("--repository-api", "true", "--allowed-uri-prefixes", "null:")
    with running_predictor(tmp_path / "log", *options, "--model-version", "1") as predictor:
        second = {"version": "2", "uri": other, "digest": null_network(other).description.digest, "percent": 50}
        load = f"{predictor.url}/v2/repository/models/digits/load"
        async with httpx.AsyncClient(timeout=30) as client:
            (await client.post(load, json={"parameters": second})).raise_for_status()

        def ask(count: int) -> None:
            for number in range(count):
                document = v2_document(null_images(1)) | {"id": f"request-{number}"}
                assert predictor.infer(document).status_code == 200
            named = v2_document(null_images(1), **{MODEL_VERSION: "2"})
            assert predictor.infer(named).status_code == 200

        ask(20)
        target = predictor.url.removeprefix("http://")
        with prometheus(tmp_path / "prometheus", [target]) as running:
            async with source_at(running.url, {"1": "1", "2": "2"}, 'job="predictors"') as source:
                before = await seen(source, 20)
                ask(30)
                after = await seen(source, 50)
            async with source_at(running.url, {"1": "1", "2": "2"}, 'job="another"') as source:
                assert (await source.look()).requests == {}
    assert {version for each in after.requests.values() for version in each} == {"1", "2"}
    assert answered(before) == 20
    assert all(failed == 0 for each in after.requests.values() for _, failed in each.values())


def answered(live: Live) -> int:
    return sum(count for each in live.requests.values() for count, _ in each.values())


async def seen(source: LiveSource, count: int) -> Live:
    """The first look by which so many requests are told of."""
    async with asyncio.timeout(30):
        while answered(live := await source.look()) < count:  # noqa: ASYNC110 - another process, in its own time
            await asyncio.sleep(0.05)
    return live
