"""librdkafka's own mock cluster on loopback: brokers, consumer groups and their rebalances, without a JVM."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

PARTITIONS = 4  # of every topic: the mock's own number


@dataclass(frozen=True)
class Kafka:
    brokers: str

    def produce(self, topic: str, records: Sequence[tuple[str, str | bytes]]) -> None:
        """Key and value each; the topic is made by its first record."""
        producer = Producer({"bootstrap.servers": self.brokers, "linger.ms": 0})
        refused: list[KafkaError] = []

        def told(error: KafkaError | None, record: object) -> None:
            if error is not None:
                refused.append(error)

        for key, value in records:
            producer.produce(topic, value, key, on_delivery=told)
            producer.poll(0)
        left = producer.flush(20)
        assert (left, refused) == (0, [])

    def committed(self, topic: str) -> int:
        """How many records of all partitions lie below the commits of the group of the topic's name."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": topic})
        try:
            places = consumer.committed([TopicPartition(topic, n) for n in range(PARTITIONS)], timeout=10)
            return sum(max(0, place.offset) for place in places)
        finally:
            consumer.close()


@contextmanager
def kafka_cluster() -> Iterator[Kafka]:
    """It lives on threads of this process, as long as the client inside which it runs."""
    cluster = _cluster()
    yield Kafka(_brokers(cluster))
    del cluster


@contextmanager
def kafka_cluster_process() -> Iterator[Kafka]:
    """The same, in a process of its own: for measurements of this one."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(there,), daemon=True)
    process.start()
    try:
        yield Kafka(here.recv())
    finally:
        process.terminate()
        process.join(10)


def _hold(told: Connection) -> None:
    cluster = _cluster()
    told.send(_brokers(cluster))
    threading.Event().wait()


def _cluster() -> Producer:
    quiet = logging.getLogger("mock-kafka")
    quiet.setLevel(logging.CRITICAL)
    return Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0}, logger=quiet)


def _brokers(cluster: Producer) -> str:
    return ",".join(f"{broker.host}:{broker.port}" for broker in cluster.list_topics(timeout=10).brokers.values())
