"""The Kafka source against librdkafka's mock cluster: commits after acceptance, kills and rebalances without loss."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.kafka import Kafka, kafka_cluster
from testbed.processes import Running, running
from testbed.sinks import Reply, ScriptedSink, scripted_sink
from whimbrel.core.cloudevent import Event
from whimbrel.eventing.offsets import Offsets

from .conftest import notification, record

QUICK = ("--http-port=0", "--backoff-seconds=0.05", "--backoff-max-seconds=0.2", "--kafka-session-seconds=6")

Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with kafka_cluster() as cluster:
        yield cluster


@pytest.fixture
def source(kafka: Kafka, tmp_path: Path) -> Start:
    """`python -m whimbrel.eventing source kafka`; a graceful stop at the end of the block."""

    def run(topic: str, sink: str, *arguments: str, name: str = "source") -> AbstractContextManager[Running]:
        given = (
            "source",
            "kafka",
            f"--kafka-topics={topic}",
            f"--kafka-brokers={kafka.brokers}",
            f"--kafka-group={topic}",
            *QUICK,
            *arguments,
        )
        return running("whimbrel.eventing", *given, log=tmp_path / f"{name}.log", K_SINK=sink)

    return run


def minio(key: str) -> str:
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": f"photos/{key}"} | {"Records": [minio_record(key)]})


def minio_record(key: str) -> dict[str, Any]:
    return record(key, eventSource="minio:s3", eventName="s3:ObjectCreated:Put")


def numbered(count: int) -> list[tuple[str, str]]:
    """Records of nine keys, each with its number as its time."""
    return [(f"k{n % 9}", notification(record(f"k{n % 9}", n))) for n in range(count)]


def test_a_commit_stands_before_the_first_that_is_not_accepted(kafka: Kafka, source: Start) -> None:
    records = [("k", notification(record("k", n))) for n in range(5)]  # one partition
    kafka.produce("stuck", [*records, ("k", minio("other")), ("k", "{"), ("k", b"")])
    healed = threading.Event()

    def script(event: Event, attempt: int) -> Reply:
        second = event.time.second if event.time else 0
        return Reply(500) if event.subject == "k" and second == 2 and not healed.is_set() else Reply()

    with (
        scripted_sink(script) as sink,
        scripted_sink() as letters,
        source("stuck", sink.url, "--delivery-attempts=2", f"--dead-letter-sink={letters.url}") as process,
    ):
        process.wait_until(lambda: len(letters.accepted) == 2 and len(sink.accepted) == 3, "all but one key's")
        process.wait_until(lambda: kafka.committed("stuck") == 2, "a commit before the third")
        assert sorted(sink.accepted_keys()) == ["k", "k", "other"]
        healed.set()
        process.wait_until(lambda: kafka.committed("stuck") == 8, "a commit behind the last")
        assert process.stop() == 0
    order = [event.time.second for event in sink.accepted if event.subject == "k" and event.time]
    assert order == [0, 1, 2, 3, 4]
    assert {letter.data for letter in letters.accepted} == {b"{", None}


def test_a_killed_source_loses_nothing(kafka: Kafka, source: Start) -> None:
    kafka.produce("killed", numbered(200))
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink, source("killed", sink.url) as process:
        process.wait_until(lambda: len(sink.received) >= 2, "two in flight")
        process.kill_and_restart()
        assert kafka.committed("killed") == 0
        hold.set()
        process.wait_until(lambda: kafka.committed("killed") == 200, "everything committed", 60)
        assert process.stop() == 0
    assert_complete_and_in_order(sink, 200)


def test_a_rebalance_loses_nothing_and_repeats_nothing(kafka: Kafka, source: Start) -> None:
    kafka.produce("shared", numbered(100))
    hold = threading.Event()
    with (
        scripted_sink(lambda event, attempt: Reply(hold=hold)) as first,
        scripted_sink() as second,
        source("shared", first.url, "--max-in-flight=2") as one,
    ):
        one.wait_until(lambda: first.received, "one in flight")
        with source("shared", second.url, name="second") as two:
            one.wait_until(lambda: "partitions leave" in one.output() or second.accepted, "a rebalance", 60)
            hold.set()
            two.wait_until(lambda: second.accepted, "a share of the second", 60)
            kafka.produce("shared", numbered(200)[100:])
            two.wait_until(lambda: kafka.committed("shared") == 200, "everything committed", 60)
            assert (one.stop(), two.stop()) == (0, 0)
    assert first.accepted
    ids = [event.id for event in (*first.accepted, *second.accepted)]
    assert len(set(ids)) == 200
    # Nothing is repeated unless a member was too busy for a heartbeat, or the group was moving on when it committed.
    told = one.output() + two.output()
    assert len(ids) == 200 or "lost" in told or "will come again" in told, told


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--kafka-topics=absent",), 1, "topic 'absent' cannot be read"),
        (("--kafka-brokers=127.0.0.1:1",), 1, "no broker answers"),
        (("--kafka-security=ssl", "--kafka-ca-bundle=/nowhere"), 2, "WHIMBREL_KAFKA_*"),
    ],
)
def test_what_is_not_there_ends_the_start_within_its_bound(
    source: Start, arguments: tuple[str, ...], status: int, told: str
) -> None:
    with source("t", "http://127.0.0.1:1/", *arguments, "--startup-wait-seconds=0.5") as process:
        assert process.process.wait(60) == status
        assert told in process.output().splitlines()[-1]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_a_position_is_never_past_what_is_not_accepted(steps: list[int], random: Any) -> None:
    offsets, partition = [sum(steps[: n + 1]) for n in range(len(steps))], Offsets()
    for offset in offsets:
        partition.deliver(offset)
    accepted: set[int] = set()
    for offset in random.sample(offsets, len(offsets)):
        partition.accept(offset)
        partition.accept(offset)
        accepted.add(offset)
        missing = [other for other in offsets if other not in accepted]
        assert partition.position == (missing[0] if missing else offsets[-1] + 1)
        assert len(partition) == len([other for other in offsets if other >= partition.position])


def assert_complete_and_in_order(sink: ScriptedSink, count: int) -> None:
    """Every record came, and after the first time that one came, those before it in its key came no later than it."""
    by_key: dict[str, list[int]] = {}
    for event in sink.accepted:
        assert event.time is not None
        by_key.setdefault(event.subject or "", []).append(event.time.minute * 60 + event.time.second)
    firsts = {key: list(dict.fromkeys(numbers)) for key, numbers in by_key.items()}
    assert sorted(number for numbers in firsts.values() for number in numbers) == list(range(count))
    assert all(numbers == sorted(numbers) for numbers in firsts.values())
