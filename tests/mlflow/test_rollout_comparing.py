"""What an answer says of a version when two are compared: its best label, none, or that it failed."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from testbed.answering import Answer, answering
from whimbrel.core.errors import Unavailable
from whimbrel.core.tensors import DIGEST_HEADER, TAG_HEADER, VERSION_HEADER
from whimbrel.mlflow.rollout.comparing import Asked, Comparing, Comparison, Place
from whimbrel.mlflow.rollout.known_objects import KnownObject


@pytest.mark.parametrize(
    ("predictions", "seen"),
    [
        ([[{"label": "cat", "score": 0.5}, {"label": "dog", "score": 0.25}]], ("cat", 0.5, False)),
        ([[]], ("", 0.0, False)),
        ([], (None, None, True)),
        ([[{"label": "cat"}]], (None, None, True)),
    ],
    ids=["objects", "none", "no image", "no score"],
)
@pytest.mark.anyio
async def test_the_best_of_a_picture_stands_for_it(
    predictions: list[object], seen: tuple[str | None, float | None, bool]
) -> None:
    body = json.dumps({"predictions": predictions}).encode()
    with answering(lambda _: Answer(body=body, headers={DIGEST_HEADER: "sha256:1"})) as server:
        async with httpx.AsyncClient() as client:
            comparing = Comparing(client, Place(server.url), "pets", Asked("1", "sha256:1"), Asked("2", "sha256:1"))
            found: list[Comparison] = [
                each async for each in comparing.each([KnownObject(uri="s3://photos/a.png")], per_second=100)
            ]
    (comparison,) = found
    for answer in (comparison.champion, comparison.candidate):
        assert (answer.label, answer.score, answer.failed) == seen


@pytest.mark.anyio
async def test_another_package_than_the_one_that_was_asked_is_no_evidence() -> None:
    body = json.dumps({"predictions": [[{"label": "cat", "score": 0.5}]]}).encode()
    with answering(lambda _: Answer(body=body, headers={DIGEST_HEADER: "sha256:1"})) as server:
        async with httpx.AsyncClient() as client:
            asked = Asked("1", "sha256:1", "prev"), Asked("2", "sha256:2", "latest")
            comparing = Comparing(client, Place(server.url), "pets", *asked)
            with pytest.raises(Unavailable, match="expected version 2, sha256:2, to answer, seen sha256:1"):
                _ = [each async for each in comparing.each([KnownObject(uri="s3://photos/a.png")], per_second=100)]
    named = [(each.headers[VERSION_HEADER], each.headers[TAG_HEADER]) for each in server.received]
    assert named == [("1", "prev"), ("2", "latest")]


@pytest.mark.anyio
async def test_an_end_of_the_candidates_process_counts_at_once_and_a_busy_champion_is_asked_again() -> None:
    good = Answer(body=json.dumps({"predictions": [[{"label": "cat", "score": 0.5}]]}).encode())
    given = [Answer(503), replace(good, headers={DIGEST_HEADER: "sha256:1"}), Answer(502, b"cut off")]
    with answering(given.__getitem__) as server:
        async with httpx.AsyncClient() as client:
            comparing = Comparing(client, Place(server.url), "pets", Asked("1", "sha256:1"), Asked("2", "sha256:2"))
            found = [each async for each in comparing.each([KnownObject(uri="s3://photos/a.png")], per_second=100)]
    assert [each.headers[VERSION_HEADER] for each in server.received] == ["1", "1", "2"]
    assert (found[0].champion.failed, found[0].candidate.failed) == (False, True)
    assert found[0].candidate.reason == "status 502: cut off"
