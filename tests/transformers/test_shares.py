"""A predictor with two versions in one process: every delivery of an event meets the same of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from testbed.images import object_event, png
from testbed.predictors import Predictor, running_predictor
from testbed.stores import Store
from testbed.transformers import Transformer, running_transformer
from whimbrel.core import cloudevent
from whimbrel.core.tensors import VERSION_HEADER
from whimbrel.predictors.null_network import null_network

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OTHER = "null:10,other"


@pytest.fixture(scope="module")
def shared_predictor(logs: Path) -> Iterator[Predictor]:
    """Half of the events are the first version's, half the second's."""
    options = ("--repository-api", "true", "--allowed-uri-prefixes", "null:", "--model-version", "first")
    with running_predictor(logs / "shared.log", *options) as running:
        second = {"version": "second", "uri": OTHER, "digest": null_network(OTHER).description.digest, "percent": 50}
        url = f"{running.url}/v2/repository/models/digits/load"
        httpx.post(url, json={"parameters": second}, timeout=30).raise_for_status()
        yield running


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_redelivery_meets_the_version_that_answered_before(
    shared_predictor: Predictor, store: Store, s3: S3Client, bucket: str, logs: Path, *, protocol: str
) -> None:
    """Though the gateway makes a new request id for it; so no event has two results."""
    host = shared_predictor.grpc_target if protocol == "grpc-v2" else shared_predictor.url.removeprefix("http://")
    s3.put_object(Bucket=bucket, Key="größe.png", Body=png(7))
    events = [object_event(bucket, "größe.png") for _ in range(24)]
    replies: dict[str, set[str]] = {event.id: set() for event in events}
    log, options = logs / f"shares-{protocol}.log", ("--predictor_protocol", protocol)
    with running_transformer(log, store, host, *options) as running, httpx.Client(timeout=30) as client:
        for attempt in range(3):
            for event in events:
                headers, body = cloudevent.binary(event)
                headers["x-request-id"] = f"{attempt}-{event.id}"
                answer = client.post(f"{running.url}/events", headers=headers, content=body)
                (reply,) = cloudevent.parse(answer.headers, answer.content)
                replies[event.id].add(reply.id)
        for number in range(12):
            image = {"content-type": "image/png", "x-request-id": str(number)}
            asked = {each: ask(client, running, image | {VERSION_HEADER: each}) for each in ("first", "second")}
            assert asked == {"first": ("first", "class-7"), "second": ("second", "other-7")}
        absent = client.post(predict_url(running), content=png(7), headers=image | {VERSION_HEADER: "third"})
        assert (absent.status_code, "third" in absent.json()["error"]) == (404, True), absent.text
    assert [len(each) for each in replies.values()] == [1] * len(events)
    assert len({reply.split("/")[-1] for each in replies.values() for reply in each}) == 2
    assert f'"request_id": "2-{events[0].id}"' in running.process.output()


def predict_url(transformer: Transformer) -> str:
    return f"{transformer.url}/v1/models/digits:predict"


def ask(client: httpx.Client, transformer: Transformer, headers: dict[str, str]) -> tuple[str, str]:
    """Which version answers, and its best label."""
    answer = client.post(predict_url(transformer), content=png(7), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers[VERSION_HEADER], answer.json()["predictions"][0][0]["label"]
