"""Pictures that land one after another: all of them before the end, some again meanwhile, each outcome counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from rich.progress import Progress

from testbed.processes import wait_for
from whimbrel.cli.landing import Landing, Picture
from whimbrel.cli.options import DEAD_LETTERS, PHOTOS, RESULTS

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PICTURES = [Picture("1.png", b"1", "one"), Picture("broken.png", b"", None), Picture("2.png", b"2", "two")]


@pytest.fixture
def landing(s3: S3Client) -> Landing:
    for bucket in (PHOTOS, RESULTS, DEAD_LETTERS):
        s3.create_bucket(Bucket=bucket)
    return Landing(s3, PICTURES, Progress(disable=True))


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_all_land_before_the_end_though_it_was_told_at_once(landing: Landing) -> None:
    landing.finish()
    landing.put()
    assert [upload.key for upload in landing.uploads] == ["1.png", "broken.png", "2.png"]


def test_whole_ones_land_again_until_the_end_and_outcomes_are_counted(landing: Landing, s3: S3Client) -> None:
    putting = started(landing.put)
    wait_for(lambda: len(landing.uploads) > 5, "a second round")
    landing.finish()
    putting.join(10)
    assert [upload.key for upload in landing.uploads[3:6]] == ["again-1/1.png", "again-1/2.png", "again-2/1.png"]
    for number in range(len(landing.uploads)):
        s3.put_object(Bucket=DEAD_LETTERS, Key=f"landing/{number}.json", Body=b"{}")
    landing.count()
    assert landing.outcomes >= len(landing.uploads)


def test_what_is_cancelled_ends_at_once(landing: Landing) -> None:
    landing.cancel()
    landing.put()
    landing.count()
    assert (landing.uploads, landing.outcomes) == ([], 0)
