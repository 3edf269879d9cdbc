"""An output that its bucket would announce as an input is refused at the start, with the notification that does."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from testbed.ceph import Ceph
from testbed.processes import running
from testbed.records import result_of
from testbed.stores import Store
from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused, NotFound, SettingsError, Unavailable
from whimbrel.core.key_template import KeyTemplate, key_template
from whimbrel.core.result_store import ResultStore
from whimbrel.core.results import dump
from whimbrel.core.s3 import s3_client
from whimbrel.core.self_trigger import Announced, check_not_announced, creations
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.results_sink import write
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def announce(store: Store, bucket: str, prefix: str = "", suffix: str = "", event: str = "s3:ObjectCreated:*") -> None:
    sqs: Any = store.sqs()
    url = sqs.create_queue(QueueName=f"queue-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rules = [{"Name": name, "Value": value} for name, value in (("prefix", prefix), ("suffix", suffix)) if value]
    wanted: Any = {"Id": "photos", "QueueArn": arn, "Events": [event]}
    wanted |= {"Filter": {"Key": {"FilterRules": rules}}} if rules else {}
    client: Any = store.s3()
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [wanted]}
    )


@pytest.mark.parametrize(
    ("prefix", "suffix", "meets"),
    [
        ("", "", True),
        ("out/", "", True),
        ("out/deeper/", "", True),
        ("in/", "", False),
        ("", ".json", True),
        ("", ".png", False),
        ("in/", ".json", False),
        ("out/", "n", True),
    ],
)
def test_keys_meet_a_notification_where_prefix_and_suffix_both_can(prefix: str, suffix: str, meets: bool) -> None:
    assert Announced("n", prefix, suffix).meets("out/", ".json") is meets


def test_every_kind_of_target_announces_and_only_creations_count() -> None:
    configuration = {
        "QueueConfigurations": [{"Id": "q", "Events": ["s3:ObjectRemoved:*", "s3:ObjectCreated:Put"]}],
        "TopicConfigurations": [
            {
                "Id": "t",
                "Events": ["s3:ObjectCreated:*"],
                "Filter": {"Key": {"FilterRules": [{"Name": "Prefix", "Value": "in/"}]}},
            },
            {"Id": "removed", "Events": ["s3:ObjectRemoved:*"]},
        ],
        "EventBridgeConfiguration": {},
    }
    assert list(creations(configuration)) == [Announced("EventBridge"), Announced("q"), Announced("t", "in/")]


def test_a_bucket_that_announces_the_outputs_is_refused_by_name(store: Store, s3: S3Client, bucket: str) -> None:
    check_not_announced(s3, bucket, "results", prefix="", suffix=".json")
    announce(store, bucket, prefix="in/", suffix=".png")
    check_not_announced(s3, bucket, "results", prefix="out/", suffix=".json")
    announce(store, bucket, prefix="out")
    with pytest.raises(SettingsError, match=r"out/\*\.json in bucket .* notification 'photos' announces \(out"):
        check_not_announced(s3, bucket, "results", prefix="out/", suffix=".json")


def test_a_topic_of_rgw_is_seen(ceph: Ceph) -> None:
    bucket = f"loop-{uuid.uuid4().hex[:8]}"
    client: Any = ceph.s3()
    client.create_bucket(Bucket=bucket)
    check_not_announced(client, bucket, "results", prefix="", suffix=".json")


def test_a_missing_bucket_and_an_absent_store_are_to_be_tried_again(s3: S3Client) -> None:
    with pytest.raises(NotFound, match="looking at bucket 'no-such-bucket-here'"):
        check_not_announced(s3, "no-such-bucket-here", "results", prefix="", suffix="")
    away = s3_client(S3Settings(s3_endpoint=f"http://127.0.0.1:{free_port()}", s3_max_attempts=1))
    with pytest.raises(Unavailable, match="does not answer"):
        check_not_announced(away, "results", "results", prefix="", suffix="")


@pytest.mark.parametrize("sink", ["results", "dead-letters"])
def test_a_sink_that_would_feed_itself_does_not_start(store: Store, bucket: str, tmp_path: Path, sink: str) -> None:
    announce(store, bucket)
    buckets = {"WHIMBREL_RESULTS_BUCKET": bucket, "WHIMBREL_DEAD_LETTERS_BUCKET": bucket}
    settings = {**store.settings_environment, **buckets, "PORT": "0"}
    with running("whimbrel.eventing", "sink", sink, log=tmp_path / "log", **settings) as process:
        assert process.process.wait(60) == 2
        assert "they would come back as inputs; name another bucket or prefix" in process.output()


def test_a_result_of_what_was_written_here_is_refused(s3: S3Client, bucket: str) -> None:
    """Where the store does not tell its notifications, the circle is broken at its first round."""
    store = ResultStore(s3, bucket, "out")
    ours, theirs = result_of("out/a.png.json", bucket=bucket), result_of("in/a.png", bucket=bucket)
    event = Event(id="1", source="s", type="dev.whimbrel.prediction.v1", data=dump(ours))
    with pytest.raises(InputRefused, match=r"seen one of s3://test-.*/out/a\.png\.json; the bucket announces"):
        write(event, store)
    write(Event(id="2", source="s", type="dev.whimbrel.prediction.v1", data=dump(theirs)), store)
    assert len(list(store.recorded(theirs.object.ref))) == 1


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("{bucket/{key}", "expected places .* and plain characters"),
        ("{keys}", r"expected no other places than \{bucket\}, \{key\}, seen \{keys\}"),
        ("{bucket}", r"expected \{key\} in it"),
        ("a/../{key}", "expected a key without empty segments"),
        ("/{key}", "expected a key without empty segments"),
        ("a//{key}", "expected a key without empty segments"),
        ("ä/{key}", "expected places .* and plain characters"),
        ("{key}\n", "expected places .* and plain characters"),
        ("{}", r"expected no other places"),
    ],
)
def test_a_template_is_strict(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        key_template(text, ["bucket", "key"], ["key"])


def test_a_template_makes_safe_keys_and_knows_what_they_begin_with() -> None:
    template = key_template("out/{bucket}/{key}.json", ["bucket", "key"], ["key"])
    assert template.key({"bucket": "photos", "key": "../ü//a.png"}) == "out/photos/%2E%2E/%C3%BC/%00/a.png.json"
    assert template.prefix("photos") == "out/photos/"
    assert KeyTemplate("{key}").prefix("photos") == ""
