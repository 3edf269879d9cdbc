"""librdkafka's own mock cluster on loopback: brokers, consumer groups and their rebalances, without a JVM."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

PARTITIONS = 4  # of every topic: the mock's own number


@dataclass(frozen=True)
class Kafka:
    """The cluster lives as long as the client inside which it runs."""

    brokers: str
    cluster: Producer

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
def kafka_cluster(brokers: int = 1) -> Iterator[Kafka]:
    quiet = logging.getLogger("mock-kafka")
    quiet.setLevel(logging.CRITICAL)
    cluster = Producer({"test.mock.num.brokers": brokers, "bootstrap.servers": "mock", "log_level": 0}, logger=quiet)
    listed = cluster.list_topics(timeout=10).brokers.values()
    yield Kafka(",".join(f"{broker.host}:{broker.port}" for broker in listed), cluster)
