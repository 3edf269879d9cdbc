"""Object events: every captured shape, their identity and their order."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.core.cloudevent import binary, json_event, parse
from whimbrel.core.errors import InputRefused
from whimbrel.core.records import ObjectEvent, object_event, parse_notification, parse_record

CAPTURED = Path(__file__).parents[1] / "data" / "rgw"


def captured_push(name: str) -> list[ObjectEvent]:
    """The notification in a captured HTTP request of Ceph RGW 16.2."""
    _, _, body = (CAPTURED / f"http_{name}.http").read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    return parse_notification(body)


def captured_pull(name: str) -> list[ObjectEvent]:
    return [parse_record(record) for record in json.loads((CAPTURED / f"pull_event_{name}.json").read_bytes())]


def aws_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": "2026-03-01T12:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "responseElements": {"x-amz-request-id": "REQ", "x-amz-id-2": "HOST"},
        "s3": {
            "bucket": {"name": "photos"},
            "object": {"key": "in/a+b%2B%C3%BC.jpg", "size": 5, "eTag": "abc", "sequencer": "0055AED6DCD90281E5"},
        },
    }
    return record | changes


def test_every_captured_push_is_understood_and_survives_the_way_through_a_broker() -> None:
    names = sorted(path.stem.removeprefix("http_") for path in CAPTURED.glob("http_*.http"))
    assert len(names) >= 15
    for name in names:
        for event in captured_push(name):
            assert event.event_source == "ceph:s3"
            assert event.creates == ("delete" not in name)
            (arrived,) = parse(*binary(event.cloudevent()))
            assert object_event(arrived) == event


def test_every_captured_pull_event_is_understood() -> None:
    names = sorted(path.stem.removeprefix("pull_event_") for path in CAPTURED.glob("pull_event_*.json"))
    assert len(names) >= 10
    for name in names:
        for event in captured_pull(name):
            assert event.source.startswith("ceph:s3..")
            assert event.creates == ("delete" not in name)
            assert object_event(event.cloudevent()) == event


def test_the_key_of_rgw_is_raw_and_that_of_aws_and_minio_is_encoded() -> None:
    (rgw,) = captured_push("put_unicode_key")
    assert rgw.object.key == 'in/a b+ü&%41 "q"\\.jpg'
    assert parse_record(aws_record()).object.key == "in/a b+ü.jpg"
    assert (
        parse_record(aws_record(eventSource="minio:s3", eventName="s3:ObjectCreated:Put")).object.key == "in/a b+ü.jpg"
    )


def test_the_cloudevent_is_that_of_the_s3_adapter() -> None:
    event = parse_record(aws_record()).cloudevent()

    assert event.type == "com.amazonaws.s3.ObjectCreated:Put"
    assert event.source == "aws:s3.eu-west-1.photos"
    assert event.subject == "in/a b+ü.jpg"
    assert event.id.startswith("REQ.HOST.")
    assert event.json() == aws_record()


def test_minio_writes_the_event_name_with_a_prefix() -> None:
    record = parse_record(aws_record(eventSource="minio:s3", eventName="s3:ObjectCreated:Put"))
    assert record.type == "com.amazonaws.s3.ObjectCreated:Put"


def test_the_identity_is_the_records_whoever_redelivers_it() -> None:
    first, again = (parse_notification(json.dumps({"Records": [aws_record()]}))[0] for _ in range(2))
    assert first.id == again.id


def test_keys_of_one_multi_delete_share_a_request_but_not_an_identity() -> None:
    one, two = aws_record(), aws_record()
    two["s3"] = {"bucket": {"name": "photos"}, "object": {**one["s3"]["object"], "key": "other"}}
    assert parse_record(one).id != parse_record(two).id


def test_records_without_request_ids_differ_by_content_and_time() -> None:
    def made(**described: Any) -> str:
        bare = aws_record(responseElements={}, eventTime=described.pop("time", "2026-03-01T12:00:00Z"))
        bare["s3"] = {"bucket": {"name": "photos"}, "object": {"key": "k", "eTag": "e"} | described}
        return parse_record(bare).id

    ids = [made(), made(key="l"), made(eTag="f"), made(versionId="v1"), made(time="2026-03-01T12:00:01Z")]
    assert len(set(ids)) == len(ids)
    assert made() == ids[0]


def test_every_captured_pull_event_has_an_identity_of_its_own() -> None:
    everything = [
        event
        for path in CAPTURED.glob("pull_event_*.json")
        for event in captured_pull(path.stem.removeprefix("pull_event_"))
    ]
    assert len({event.id for event in everything}) == len(everything)


def test_the_sequencer_of_rgw_is_little_endian_time() -> None:
    (first,) = captured_push("put")
    (second,) = captured_push("put_overwrite")
    assert first.object.key == second.object.key
    assert first.sequencer is not None and second.sequencer is not None
    assert first.sequencer < second.sequencer
    happened = datetime.fromtimestamp(first.sequencer / 1e9, UTC)
    assert abs((happened - first.time).total_seconds()) < 1


def test_sequencers_of_different_length_compare_as_aws_says() -> None:
    def sequencer(text: str) -> int:
        record = aws_record()
        record["s3"]["object"]["sequencer"] = text
        value = parse_record(record).sequencer
        assert value is not None
        return value

    assert sequencer("0055AED6DCD90281E5") < sequencer("0055AED6DCD90281E6") < sequencer("0055AED6DCD90281E6FF")


def test_a_deletion_is_ordered_by_when_it_happened_and_a_put_by_its_mtime() -> None:
    (put,) = captured_pull("put")
    (delete,) = captured_pull("delete")
    assert put.object.key == delete.object.key
    assert put.time < delete.time


def test_the_test_event_holds_no_record() -> None:
    assert parse_notification('{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"photos"}') == []


def test_an_sns_envelope_is_opened() -> None:
    envelope = {"Type": "Notification", "Message": json.dumps({"Records": [aws_record()]})}
    assert [event.object.bucket for event in parse_notification(json.dumps(envelope))] == ["photos"]


def test_rgws_own_cloudevents_are_accepted() -> None:
    event = json_event(id="1", source="ceph:s3..photos", type="com.amazonaws.ObjectCreated:Put", data=aws_record())
    assert object_event(event).object.bucket == "photos"
    wrapped = json_event(id="1", source="s", type="com.amazonaws.ObjectCreated:Put", data={"Records": [aws_record()]})
    assert object_event(wrapped) == object_event(event)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"eventSource": "azure:blob"}, "azure:blob"),
        ({"eventSource": None}, "eventSource"),
        ({"eventName": 7}, "eventName"),
        ({"eventTime": "noon"}, "noon"),
        ({"s3": []}, "s3"),
        ({"s3": {"bucket": {"name": "b"}, "object": {"key": ""}}}, "key"),
        ({"s3": {"bucket": {}, "object": {"key": "k"}}}, "name"),
        ({"s3": {"bucket": {"name": "b"}, "object": {"key": "k" * 1025}}}, "1024"),
        ({"s3": {"bucket": {"name": "b"}, "object": {"key": "a%00b"}}}, "control"),
        ({"s3": {"bucket": {"name": "b"}, "object": {"key": "a%FFb"}}}, "UTF-8"),
        ({"s3": {"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "xyz"}}}, "sequencer"),
        ({"responseElements": "x"}, "responseElements"),
    ],
)
def test_a_wrong_record_is_refused_by_the_name_of_its_fault(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputRefused, match=named):
        parse_record(aws_record(**change))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["eventSource", "awsRegion", "eventTime", "eventName", "responseElements", "s3"]), json_values)
def test_any_value_anywhere_is_understood_or_refused(field: str, value: Any) -> None:
    with suppress(InputRefused):
        assert parse_record(aws_record(**{field: value})).object.bucket


@given(st.binary(max_size=100))
def test_any_body_is_understood_or_refused(body: bytes) -> None:
    with suppress(InputRefused):
        assert parse_notification(body) == []


@given(st.lists(json_values, max_size=3), json_values)
def test_any_json_is_understood_or_refused(records: list[Any], info: Any) -> None:
    for document in ({"Records": records}, {"Records": [{"event": "OBJECT_CREATE", "info": info}]}, records):
        with suppress(InputRefused):
            assert len(parse_notification(json.dumps(document))) == 0
