"""Results are written once and the latest is never older, on a real store, with writers that race."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from testbed.ceph import Ceph
from testbed.records import result_of
from whimbrel.core.conditional_puts import IfMatch
from whimbrel.core.errors import NotFound, Unavailable
from whimbrel.core.result_store import ResultStore, Written
from whimbrel.core.results import Gone, Result, latest_key, parse_gone, parse_result, result_key
from whimbrel.core.s3 import s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Door = Callable[..., None]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def latest(s3: S3Client, bucket: str, key: str) -> Result:
    body = s3.get_object(Bucket=bucket, Key=latest_key("photos", key))["Body"].read()
    result = parse_result(body)
    assert result.recorded is not None
    return result.model_copy(update={"recorded": None})


def keys_in(s3: S3Client, bucket: str) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_a_store_with_conditional_puts_is_recognised(s3: S3Client, bucket: str) -> None:
    assert ResultStore(s3, bucket).probed().conditional_puts
    assert ResultStore(s3, bucket).probed().conditional_puts, "the probe may be there from an earlier start"


class TestRgw:
    """Ceph's gateway of 16.2, whose If-Match wants the eTag without quotes."""

    @pytest.fixture
    def results(self, ceph: Ceph) -> ResultStore:
        bucket = f"results-{uuid.uuid4().hex[:8]}"
        ceph.s3().create_bucket(Bucket=bucket)
        return ResultStore(ceph.s3(), bucket).probed()

    def test_its_conditional_puts_are_recognised_as_they_are(self, results: ResultStore) -> None:
        assert (results.conditional_puts, results.if_match) == (True, IfMatch.BARE)
        assert results.weaknesses == ()
        assert results.probed() == results

    def test_racing_writers_write_each_version_once_and_the_newest_wins(self, results: ResultStore) -> None:
        versions = [
            result_of("a.png", event_id=str(n), etag=f"e{n}", time=NOON + timedelta(seconds=n)) for n in range(6)
        ]
        with ThreadPoolExecutor(12) as pool:
            outcomes = Counter(pool.map(results.write, versions * 4))
        assert outcomes == {Written.NEW: 6, Written.DUPLICATE: 18}
        assert latest(results.client, results.bucket, "a.png") == versions[-1]

    def test_what_is_recorded_is_read_back(self, results: ResultStore) -> None:
        result = result_of("ü//a.png")
        results.write(result)
        (recorded,) = results.recorded(result.object.ref)
        assert recorded.model_copy(update={"recorded": None}) == result


def test_a_store_of_which_a_condition_is_unknown_or_ignored_is_named(s3: S3Client, bucket: str) -> None:
    """The bucket behind a door that leaves a header out, or refuses it: stores that are older or simpler."""

    def seen_through(door: Door) -> ResultStore:
        client = s3_client(S3Settings(s3_endpoint=s3.meta.endpoint_url))
        client.meta.events.register("before-sign.s3.PutObject", door)
        return ResultStore(client, bucket).probed()

    def without(header: str) -> Door:
        def door(request: Any, **_: Any) -> None:
            del request.headers[header]

        return door

    def without_both(request: Any, **_: Any) -> None:
        for header in ("If-Match", "If-None-Match"):
            without(header)(request)

    ignores_both = seen_through(without_both)
    assert (ignores_both.conditional_puts, len(ignores_both.weaknesses)) == (False, 2)
    ignores_match = seen_through(without("If-Match"))
    assert (ignores_match.conditional_puts, ignores_match.if_match) == (True, IfMatch.ABSENT)
    assert ignores_match.weaknesses == (
        "it has no If-Match: an older event may replace the latest result of its key at the same instant",
    )
    newer = result_of("a.png", event_id="2", etag="e2", time=NOON + timedelta(minutes=1))
    assert [ignores_match.write(each) for each in (newer, newer, result_of("a.png"))] == [
        Written.NEW,
        Written.DUPLICATE,
        Written.NEW,
    ]
    assert latest(s3, bucket, "a.png") == newer


def test_a_redelivered_event_writes_nothing_new(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket)
    assert [results.write(result_of("a.png")) for _ in range(3)] == [Written.NEW, Written.DUPLICATE, Written.DUPLICATE]
    assert len(keys_in(s3, bucket)) == 2


def test_a_writer_killed_between_its_two_steps_is_made_good_by_the_redelivery(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket)
    results.write(result_of("a.png"))
    s3.delete_object(Bucket=bucket, Key=latest_key("photos", "a.png"))

    assert results.write(result_of("a.png")) is Written.DUPLICATE
    assert latest(s3, bucket, "a.png") == result_of("a.png")


def test_an_older_event_that_arrives_late_is_kept_but_not_the_latest(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket)
    newer = result_of("a.png", event_id="2", etag="e2", time=NOON + timedelta(minutes=1))
    results.write(newer)

    assert results.write(result_of("a.png", time=NOON)) is Written.NEW
    assert latest(s3, bucket, "a.png") == newer


def test_racing_writers_write_each_version_once_and_the_newest_wins(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket)
    versions = [result_of("a.png", event_id=str(n), etag=f"e{n}", time=NOON + timedelta(seconds=n)) for n in range(6)]
    with ThreadPoolExecutor(12) as pool:
        outcomes = Counter(pool.map(results.write, versions * 4))

    assert outcomes == {Written.NEW: 6, Written.DUPLICATE: 18}
    assert latest(s3, bucket, "a.png") == versions[-1]


@pytest.mark.parametrize("content", [b"not a result", b'{"schema": "whimbrel.dev/result/v9"}'])
def test_what_is_no_result_at_the_latests_key_gives_way(s3: S3Client, bucket: str, content: bytes) -> None:
    s3.put_object(Bucket=bucket, Key=latest_key("photos", "a.png"), Body=content)
    assert ResultStore(s3, bucket).write(result_of("a.png")) is Written.NEW
    assert latest(s3, bucket, "a.png") == result_of("a.png")


def test_without_the_latest_a_duplicate_is_still_told(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket, keeps_latest=False)
    assert [results.write(result_of("a.png")) for _ in range(2)] == [Written.NEW, Written.DUPLICATE]
    assert keys_in(s3, bucket) == [result_key("photos", result_of("a.png").object.ref, "sha256:" + "1" * 64)]


def test_without_conditional_puts_the_rules_hold_for_one_delivery_after_the_other(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket, conditional_puts=False)
    newer = result_of("a.png", event_id="2", etag="e2", time=NOON + timedelta(minutes=1))

    assert [results.write(newer), results.write(newer)] == [Written.NEW, Written.DUPLICATE]
    assert results.write(result_of("a.png", time=NOON)) is Written.NEW
    assert latest(s3, bucket, "a.png") == newer


def test_an_object_that_was_gone_is_recorded_once(s3: S3Client, bucket: str) -> None:
    results = ResultStore(s3, bucket)
    result = result_of("a.png")
    gone = Gone(object=result.object, event=result.event, reason="deleted before it was read")

    assert [results.write_gone(gone), results.write_gone(gone)] == [Written.NEW, Written.DUPLICATE]
    (key,) = keys_in(s3, bucket)
    stored = parse_gone(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert stored.model_copy(update={"recorded": None}) == gone


def test_a_missing_bucket_and_an_absent_store_are_to_be_tried_again(s3: S3Client) -> None:
    with pytest.raises(NotFound, match="NoSuchBucket"):
        ResultStore(s3, "no-such-bucket-here").write(result_of("a.png"))
    with pytest.raises(NotFound, match="no-such-bucket-here"):
        ResultStore(s3, "no-such-bucket-here").probed()
    away = s3_client(S3Settings(s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_max_attempts=1))
    with pytest.raises(Unavailable, match="does not answer"):
        ResultStore(away, "results").write(result_of("a.png"))
