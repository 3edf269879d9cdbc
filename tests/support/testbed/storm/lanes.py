"""The ways that objects come by: a store, its notifications, and the sources that take them."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3

from testbed.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from testbed.ceph_pull import pulled_bucket
from testbed.rabbitmq import RabbitMq
from testbed.stores import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_EXCHANGE = "amq.topic"  # always there; a gateway knows one exchange of each broker, whatever its topics say
_SOURCE = ("--max-in-flight", "16", "--sink-timeout-seconds", "600", "--backoff-max-seconds", "5")


@dataclass(frozen=True)
class Lane:
    """`buckets`: those of the objects, whose events `sources` (name: arguments) take.

    `outage(seconds)` takes the store away and brings it back; `revive()` starts what of it has ended by itself, and
    names that. `waiting()`: events that nobody acknowledged yet.
    """

    settings: Mapping[str, str]
    s3: Callable[[], S3Client]
    buckets: Sequence[str]
    results_bucket: str
    dead_letters_bucket: str
    sources: Mapping[str, Sequence[str]]
    outage: Callable[[float], None]
    waiting: Callable[[], int]
    revive: Callable[[], Sequence[str]] = tuple


def sqs_lane(store: Store, *, lease_seconds: int = 10) -> Lane:
    """Moto's S3 and SQS. The store that is away is one that stands still, as it keeps nothing through a kill.

    What a killed source held comes again after `lease_seconds`.
    """
    name = uuid.uuid4().hex[:8]
    s3, sqs = store.s3(), store.sqs()
    objects, results, letters = (f"{kind}-{name}" for kind in ("photos", "results", "dead-letters"))
    for bucket in (objects, results, letters):
        s3.create_bucket(Bucket=bucket)
    url = sqs.create_queue(QueueName=objects)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wanted: Any = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=objects, NotificationConfiguration=wanted)

    def stand_still(seconds: float) -> None:
        os.kill(store.process.process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(store.process.process.pid, signal.SIGCONT)

    lease = ("--sqs-visibility-seconds", str(lease_seconds))
    return Lane(
        settings=_settings(store.settings_environment, results, letters),
        s3=store.s3,
        buckets=(objects,),
        results_bucket=results,
        dead_letters_bucket=letters,
        sources={
            "sqs-source": ("sqs", "--sqs-queue", objects, "--sqs-endpoint", store.endpoint, *lease, *_SOURCE),
        },
        outage=stand_still,
        waiting=lambda: _queued(sqs, url),
    )


def ceph_lane(ceph: Ceph, rabbitmq: RabbitMq, *, kills_gateway: bool = True) -> Lane:
    """A real RGW: one bucket announces through RabbitMQ by a persistent topic, one in the pull mode.

    The store that is away is one whose OSD is killed, and its gateway where asked for: 16.2 then takes up its queues
    after half a minute, and its pubsub zone may never hear of what was put just before.
    """
    name = uuid.uuid4().hex[:8]
    s3 = ceph.s3()
    results, letters, pushed = f"results-{name}", f"dead-letters-{name}", f"photos-{name}"
    for bucket in (results, letters, pushed):
        s3.create_bucket(Bucket=bucket)
    queue = _announce_through(rabbitmq, ceph, pushed)
    pulled = pulled_bucket(ceph)
    away = threading.Lock()  # on purpose

    def kill(seconds: float) -> None:
        with away:
            if kills_gateway:
                ceph.gateway.kill()
            ceph.osd.kill()
            try:
                time.sleep(seconds)
            finally:
                ceph.start_osd()
                if kills_gateway:
                    ceph.start_gateway()

    def revive() -> Sequence[str]:
        with away:
            return ceph.revive()

    binding = ("--amqp-declare", "true", "--amqp-exchange", _EXCHANGE, "--amqp-routing-key", queue)
    pull = ("--rgw-pubsub-endpoint", ceph.pubsub_endpoint, "--rgw-subscription", pulled.subscription)
    return Lane(
        settings=_settings(ceph.settings_environment, results, letters),
        s3=ceph.s3,
        buckets=(pushed, pulled.bucket),
        results_bucket=results,
        dead_letters_bucket=letters,
        sources={
            "amqp-source": ("amqp", "--amqp-url", rabbitmq.url, "--amqp-queue", queue, *binding, *_SOURCE),
            "rgw-pubsub-source": ("rgw-pubsub", *pull, *_SOURCE),
        },
        outage=kill,
        waiting=lambda: rabbitmq.ready(queue) + len(pulled.keys()),
        revive=revive,
    )


def _announce_through(rabbitmq: RabbitMq, ceph: Ceph, bucket: str) -> str:
    """A persistent topic of RGW that publishes to RabbitMQ; the name of the topic and of the queue."""
    name = f"storm-{bucket}"
    sns = boto3.client(
        "sns",
        endpoint_url=ceph.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    endpoint = f"amqp://127.0.0.1:{rabbitmq.port}"  # as guest; with a password in it, RGW asks for TLS
    attributes = {"push-endpoint": endpoint, "amqp-exchange": _EXCHANGE, "amqp-ack-level": "broker"}
    topic = sns.create_topic(Name=name, Attributes={**attributes, "persistent": "true"})["TopicArn"]
    wanted: Any = {"TopicConfigurations": [{"Id": name, "TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]}
    ceph.s3().put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)
    ceph.restart_gateway()  # a new persistent topic is else first looked at after 30 s
    return name


def _settings(store: Mapping[str, str], results: str, letters: str) -> dict[str, str]:
    return {
        **store,
        "WHIMBREL_RESULTS_BUCKET": results,
        "WHIMBREL_DEAD_LETTERS_BUCKET": letters,
        "WHIMBREL_S3_READ_TIMEOUT_SECONDS": "5",
    }


def _queued(sqs: SQSClient, url: str) -> int:
    """Messages that wait, and messages that somebody holds or held when it was killed."""
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(answer[name]) for name in names)
