"""The SQS source against a real queue and a real sink that misbehaves."""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from testbed.processes import wait_for
from testbed.sinks import Reply, scripted_sink
from testbed.stores import Store
from whimbrel.core.cloudevent import Event
from whimbrel.core.records import object_event
from whimbrel.local.state import free_port

from .conftest import Queue, SourceInThread, SourceProcess, notification, record

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_every_put_arrives_though_the_sink_fails_and_hangs(
    s3: S3Client, bucket: str, store: Store, queue: Queue, source: SourceInThread
) -> None:
    arn = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    keys = [f"a b/ü+{n}.png" for n in range(40)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    never = threading.Event()

    def script(event: Event, attempt: int) -> Reply:
        number = keys.index(event.subject or "")
        if attempt == 1 and number % 4 == 1:
            return Reply(500)
        if attempt <= 2 and number % 4 == 2:
            return Reply(503, headers={"retry-after": "1"})
        if attempt == 1 and number == 3:
            return Reply(202, hold=never)
        return Reply()

    with scripted_sink(script) as sink:
        with source(sink.url, sink_timeout_seconds=1, delivery_attempts=5):
            wait_for(lambda: set(sink.accepted_keys()) >= set(keys), "all keys at the sink")
            wait_for(queue.empty, "an empty queue")
        event = next(event for event in sink.accepted if event.subject == keys[0])
    assert event.type == "com.amazonaws.s3.ObjectCreated:Put"
    assert object_event(event).object.key == keys[0]
    assert len({event.id for event in sink.accepted}) == len(keys)


def test_a_killed_source_loses_nothing(queue: Queue, source_process: SourceProcess) -> None:
    keys = [f"k{n}" for n in range(30)]
    queue.send(*(notification(record(key)) for key in keys))
    hold = threading.Event()
    with (
        scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink,
        source_process(sink.url, WHIMBREL_SQS_VISIBILITY_SECONDS="2") as process,
    ):
        process.wait_until(lambda: len(sink.received) >= 20, "20 events in flight")
        process.process.kill()
        process.process.wait(60)
        # Nothing was accepted, so nothing is deleted: once the leases are over, all of them wait again.
        wait_for(lambda: queue.counts() == (len(keys), 0), "every message back in the queue")
        hold.set()
        process.kill_and_restart()
        process.wait_until(lambda: set(sink.accepted_keys()) == set(keys), "every key at the sink")
        process.wait_until(queue.empty, "an empty queue")
        assert process.stop() == 0


def test_sigterm_finishes_what_is_in_flight_and_returns_the_rest(queue: Queue, source_process: SourceProcess) -> None:
    queue.send(*(notification(record(f"k{n}")) for n in range(12)))
    hold = threading.Event()
    with (
        scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink,
        source_process(sink.url, WHIMBREL_MAX_IN_FLIGHT="4", WHIMBREL_SQS_WAIT_SECONDS="0") as process,
    ):
        process.wait_until(lambda: len(sink.received) == 4, "4 events in flight")
        process.signal(signal.SIGTERM)
        wait_for(lambda: queue.counts() == (8, 4), "the waiting ones back in the queue")
        hold.set()
        assert process.process.wait(60) == 0
        assert len(sink.accepted_keys()) == 4
        wait_for(lambda: queue.counts() == (8, 0), "nothing held by anybody")


def test_a_slow_sink_gets_no_second_delivery(queue: Queue, source: SourceInThread) -> None:
    queue.send(notification(record("slow")))
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink, source(sink.url, sqs_visibility_seconds=1):
        wait_for(lambda: sink.received, "the first delivery")
        started = time.monotonic()
        wait_for(lambda: time.monotonic() > started + 2.5 or len(sink.received) > 1, "two leases and a half")
        hold.set()
        wait_for(queue.empty, "an empty queue")
        assert len(sink.received) == 1


def test_two_records_of_a_key_are_never_in_flight_at_once(queue: Queue, source: SourceInThread) -> None:
    records = [record(f"k{n % 3}", n) for n in range(30)]
    queue.send(*(notification(*records[n : n + 3]) for n in range(0, 30, 3)))
    with scripted_sink(lambda event, attempt: Reply(500 if attempt == 1 else 202)) as sink, source(sink.url):
        wait_for(queue.empty, "an empty queue")
    assert sink.most_at_once_of_a_key == 1
    assert len(sink.accepted) == 30
    for key in ("k0", "k1", "k2"):
        times = [event.time for event in sink.accepted if event.subject == key and event.time]
        assert times == sorted(times)


def test_what_is_refused_is_deleted_once_the_dead_letter_sink_has_it(queue: Queue, source: SourceInThread) -> None:
    queue.send(notification(record("good")), notification(record("broken")))
    answer = json.dumps({"error": "expected a PNG", "reason": "UndecodableImage"}).encode()

    def script(event: Event, attempt: int) -> Reply:
        return Reply(422, answer) if event.subject == "broken" else Reply()

    def busy_first(event: Event, attempt: int) -> Reply:
        return Reply(503 if attempt == 1 else 202)

    with scripted_sink(script) as sink, scripted_sink(busy_first) as letters:
        with source(sink.url, dead_letter_sink=letters.url):
            wait_for(queue.empty, "an empty queue")
        (letter,) = letters.accepted
        extensions = letter.extensions
        assert len([event for event in sink.received if event.subject == "broken"]) == 1
        assert letter.subject == "broken"
        assert object_event(letter).object.key == "broken"
        assert extensions["knativeerrorcode"] == "422"
        assert extensions["knativeerrordest"] == sink.url
        assert base64.b64decode(extensions["knativeerrordata"]) == answer
        assert extensions["whimbrelattempts"] == "1"


@pytest.mark.parametrize("dead_letter_status", [None, 400])
def test_what_is_refused_stays_in_the_queue_when_nobody_keeps_it(
    queue: Queue, source: SourceInThread, dead_letter_status: int | None
) -> None:
    queue.send(notification(record("broken")))
    with (
        scripted_sink(lambda event, attempt: Reply(400)) as sink,
        scripted_sink(lambda event, attempt: Reply(dead_letter_status or 202)) as letters,
    ):
        with source(sink.url, dead_letter_sink=letters.url if dead_letter_status else None):
            wait_for(lambda: len(sink.received) >= 2, "a second delivery")
        wait_for(lambda: queue.counts() == (1, 0), "the message back in the queue")
        assert sink.accepted == []


UNREADABLE = {
    "no JSON": "{",
    "no notification": "[]",
    "wrong shape": notification({"eventSource": "aws:s3"}),
    "unknown source": notification(record("k", eventSource="gcs")),
    "control characters": notification(record("a%00b")),
    "half a surrogate pair": notification(record("k", awsRegion="\ud800")),
}


def test_what_cannot_be_read_becomes_a_dead_letter(queue: Queue, source: SourceInThread) -> None:
    queue.send(*UNREADABLE.values())
    queue.send(json.dumps({"Event": "s3:TestEvent"}))
    queue.send(notification(record("good"), record("", 1)))
    with scripted_sink() as sink, scripted_sink() as letters, source(sink.url, dead_letter_sink=letters.url):
        wait_for(queue.empty, "an empty queue")
    assert sink.accepted_keys() == ["good"]
    assert len(letters.accepted) == len(UNREADABLE) + 1
    assert {letter.type for letter in letters.accepted} == {"dev.whimbrel.unreadable.v1"}
    by_data = {letter.data: letter for letter in letters.accepted}
    reason = json.loads(base64.b64decode(by_data[b"{"].extensions["knativeerrordata"]))
    assert reason == {"error": "expected an S3 notification in JSON", "reason": "InputRefused"}
    assert by_data[json.dumps(record("", 1)).encode()].extensions["knativeerrorcode"] == "400"


def test_without_a_dead_letter_sink_what_cannot_be_read_goes_to_the_sink(queue: Queue, source: SourceInThread) -> None:
    queue.send(notification(record("a%0Ab.png")))
    with scripted_sink() as sink, source(sink.url):
        wait_for(queue.empty, "an empty queue")
    (event,) = sink.accepted
    assert event.type == "dev.whimbrel.unreadable.v1"
    assert json.loads(event.data or b"")["s3"]["object"]["key"] == "a%0Ab.png"
    assert event.extensions["knativeerrorcode"] == "400"


def test_overrides_of_the_sink_binding_are_applied(queue: Queue, source_process: SourceProcess) -> None:
    queue.send(notification(record("k")))
    overrides = json.dumps({"extensions": {"tenant": "birds"}})
    with scripted_sink() as sink, source_process(sink.url, K_CE_OVERRIDES=overrides) as process:
        process.wait_until(queue.empty, "an empty queue")
        assert sink.accepted[0].extensions == {"tenant": "birds"}


def test_an_absent_sink_is_waited_for_and_told_once(queue: Queue, source_process: SourceProcess) -> None:
    queue.send(notification(record("k")))
    port = free_port()
    with source_process(f"http://127.0.0.1:{port}/") as process:
        process.wait_until(lambda: "is away" in process.output(), "the news")
        with scripted_sink(port=port) as sink:
            process.wait_until(queue.empty, "an empty queue")
            assert sink.accepted_keys() == ["k"]
        assert process.output().count("is away") == 1
        assert process.output().count("answers again") == 1


def test_health_and_metrics(queue: Queue, source_process: SourceProcess) -> None:
    queue.send(notification(record("k")))
    port = free_port()
    with scripted_sink() as sink, source_process(sink.url, WHIMBREL_HTTP_PORT=str(port)) as process:
        process.wait_until(queue.empty, "an empty queue")
        logged = json.loads(process.output().splitlines()[0])
        base = f"http://127.0.0.1:{logged['message'].rsplit(':', 1)[1]}"
        assert httpx.get(f"{base}/healthz").json() == {"ready": True}
        assert 'whimbrel_source_events_total{outcome="accepted",source="sqs"} 1.0' in httpx.get(f"{base}/metrics").text


def test_a_missing_queue_ends_the_start_within_its_bound(queue: Queue, source_process: SourceProcess) -> None:
    queue.client.delete_queue(QueueUrl=queue.url)
    with source_process("http://127.0.0.1:1/", WHIMBREL_STARTUP_WAIT_SECONDS="1") as process:
        assert process.process.wait(60) == 1
        last: Any = json.loads(process.output().splitlines()[-1])
        assert f"queue '{queue.name}' does not exist; create it" in last["message"]
