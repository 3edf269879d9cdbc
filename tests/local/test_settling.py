"""Which objects are announced again after a start of the store, and by what they count as settled."""

from __future__ import annotations

from pathlib import Path

import pytest

from whimbrel.core.kustomize import render
from whimbrel.local import embedded
from whimbrel.local.embedded import Notification, StoreContents
from whimbrel.local.objects import AppliedObjects, read
from whimbrel.local.plan import fronts, plan
from whimbrel.local.settling import Settling, settling
from whimbrel.local.workload import Workload

OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "local"
CREATED = Notification(bucket="in", queue="q", events=("s3:ObjectCreated:Put",))
REMOVED = Notification(bucket="in", queue="q2", events=("s3:ObjectRemoved:*",))


def sink(**environment: str) -> Workload:
    return Workload("sink", "Service", "whimbrel.eventing", (), environment)


def test_the_local_overlay_is_settled_by_its_sinks_buckets() -> None:
    found = AppliedObjects([read(each) for each in render(OVERLAY)])
    objects = found.with_defaults([read(each) for each in embedded.settings_objects("default", 1, 2)])
    ports = {front.workload: 1000 for front in fronts(objects)} | {"broker": 1001}

    planned = plan(objects, ports, {})

    expected = Settling((("photos", "photos"),), "results", "{bucket}", "dead-letters", "")
    assert settling(embedded.store_contents(objects), planned.workloads) == expected


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
    notifications: tuple[Notification, ...], sinks: list[Workload]
) -> None:
    assert settling(StoreContents(notifications=notifications), sinks) is None
