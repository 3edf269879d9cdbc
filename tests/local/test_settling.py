"""Which objects are announced again after a start of the store, and by what they count as settled."""

from __future__ import annotations

import pytest

from whimbrel.local.embedded import Notification, StoreContents
from whimbrel.local.settling import Settling, settling

CREATED = Notification(bucket="in", queue="q", events=("s3:ObjectCreated:Put",))
REMOVED = Notification(bucket="in", queue="q2", events=("s3:ObjectRemoved:*",))


def sink(**environment: str) -> dict[str, str]:
    return environment


def test_buckets_and_prefixes_are_those_of_the_sinks_environment() -> None:
    contents = StoreContents(notifications=(CREATED, CREATED, REMOVED))
    results = sink(WHIMBREL_RESULTS_BUCKET="out", WHIMBREL_RESULTS_PREFIX="of/{bucket}")
    letters = sink(WHIMBREL_DEAD_LETTERS_BUCKET="bad", WHIMBREL_DEAD_LETTERS_PREFIX="p")

    expected = Settling((("in", "q"),), "out", "of/{bucket}", "bad", "p")
    assert settling(contents, [results, letters]) == expected
    assert settling(contents, [results]) == Settling((("in", "q"),), "out", "of/{bucket}")


@pytest.mark.parametrize(
    ("notifications", "sinks"),
    [
        ((REMOVED,), [sink(WHIMBREL_RESULTS_BUCKET="out")]),
        ((CREATED,), [sink()]),
        ((CREATED,), [sink(WHIMBREL_RESULTS_BUCKET="one"), sink(WHIMBREL_RESULTS_BUCKET="another")]),
    ],
)
def test_without_them_there_is_nothing_to_announce(
    notifications: tuple[Notification, ...], sinks: list[dict[str, str]]
) -> None:
    assert settling(StoreContents(notifications=notifications), sinks) is None
