"""What is announced again: the buckets that the manifests name, with errors of one line, until it is stopped."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from testbed.stores import CREDENTIALS, Store
from whimbrel.cli.unsettled import announce_unsettled
from whimbrel.core.errors import TryAgain
from whimbrel.core.records import parse_notification
from whimbrel.local.settling import Settling

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def environment(store: Store) -> dict[str, str]:
    return {"WHIMBREL_S3_ENDPOINT": store.endpoint, **CREDENTIALS}


def made(store: Store, s3: S3Client) -> tuple[str, str]:
    """A bucket with one object, and a queue."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="a.jpg", Body=b"x")
    store.sqs().create_queue(QueueName=name)
    return name, name


def keys_in(store: Store, queue: str) -> list[str]:
    sqs: Any = store.sqs()
    received = sqs.receive_message(QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"], MaxNumberOfMessages=10)
    return [event.object.uri for each in received.get("Messages", []) for event in parse_notification(each["Body"])]


def test_each_notifications_bucket_is_announced_in_its_own_queue(
    store: Store, s3: S3Client, bucket: str, environment: dict[str, str]
) -> None:
    first, second = made(store, s3), made(store, s3)
    settling = Settling((first, second), results_bucket=bucket)
    later = datetime.now(UTC) + timedelta(minutes=1)

    assert announce_unsettled(environment, settling, later, threading.Event()) == 2

    assert keys_in(store, first[1]) == [f"s3://{first[0]}/a.jpg"]
    assert keys_in(store, second[1]) == [f"s3://{second[0]}/a.jpg"]


def test_once_it_is_stopped_nothing_more_is_announced(
    store: Store, s3: S3Client, bucket: str, environment: dict[str, str]
) -> None:
    stopped = threading.Event()
    stopped.set()
    settling = Settling((made(store, s3),), results_bucket=bucket)

    assert announce_unsettled(environment, settling, datetime.now(UTC) + timedelta(minutes=1), stopped) == 0


def test_a_queue_that_is_not_there_is_one_line(
    store: Store, s3: S3Client, bucket: str, environment: dict[str, str]
) -> None:
    settling = Settling(((made(store, s3)[0], "absent"),), results_bucket=bucket)

    with pytest.raises(TryAgain, match="announcing in queue 'absent': the store answered") as error:
        announce_unsettled(environment, settling, datetime.now(UTC), threading.Event())

    assert "\n" not in str(error.value)
