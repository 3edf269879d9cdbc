"""Topics of a real Ceph 16.2 that push to our receiver, or through RabbitMQ; its conditional puts."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aio_pika.abc import AbstractChannel
from botocore.exceptions import ClientError

from testbed.ceph import Ceph
from testbed.ceph_pull import CREDENTIALS
from testbed.ceph_push import KEYS, Queued, notify, topics_of
from testbed.certificates import certificate_for_loopback
from testbed.processes import Running, answers, running
from testbed.rabbitmq import RabbitMq
from testbed.sinks import Reply, scripted_sink
from whimbrel.core.cloudevent import Event
from whimbrel.core.records import object_event
from whimbrel.eventing.rgw.setup import Topics
from whimbrel.eventing.rgw.signing import Signer
from whimbrel.eventing.rgw.topic_plan import OPAQUE
from whimbrel.local.state import free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def photos(ceph: Ceph) -> str:
    name = f"push-{uuid.uuid4().hex[:12]}"
    ceph.s3().create_bucket(Bucket=name)
    return name


@pytest.fixture
def topics(ceph: Ceph) -> Topics:
    return topics_of(ceph)


@pytest.fixture
def receiver(tmp_path: Path) -> Callable[..., Any]:
    """`python -m whimbrel.eventing source rgw-push` and its URL."""

    @contextmanager
    def run(sink: str, *arguments: str, port: int = 0) -> Iterator[tuple[Running, str]]:
        port = port or free_port()
        quick = ("--backoff-seconds=0.05", "--backoff-max-seconds=0.1")
        with running(
            *("whimbrel.eventing", "source", "rgw-push", f"--http-port={port}", *quick, *arguments),
            log=tmp_path / "source.log",
            K_SINK=sink,
        ) as process:
            scheme = "https" if any("tls" in argument for argument in arguments) else "http"
            process.wait_until(lambda: "listening on" in process.output(), "the port")
            yield process, f"{scheme}://127.0.0.1:{port}"

    return run


def test_filters_opaque_data_tls_and_basic_authentication(
    ceph: Ceph, photos: str, topics: Topics, receiver: Callable[..., Any], tmp_path: Path
) -> None:
    client = ceph.s3()
    certificate, key_file = certificate_for_loopback(tmp_path)
    secure = (f"--http-tls-certificate={certificate}", f"--http-tls-key={key_file}")
    # What a TLS proxy in front of the gateway says: a password is taken over HTTPS only.
    topics._sns.meta.events.register(
        "before-sign.sns", lambda request, **_: request.headers.add_header("X-Forwarded-Proto", "https")
    )
    wish = {"prefix": "in/", "suffix": ".png", "metadata": {"color": "red"}, "tags": {"kind": "bird"}}
    with (
        scripted_sink() as sink,
        receiver(sink.url, "--push-user=birds", "--push-password=s3cret", *secure) as (_, url),
    ):
        notify(topics, photos, url.replace("//", "//birds:s3cret@"), {OPAQUE: "me & you", "verify-ssl": "false"}, wish)
        for key, color, tag in (
            ("in/a.png", "red", "bird"), ("out/a.png", "red", "bird"), ("in/a.jpg", "red", "bird"),
            ("in/b.png", "blue", "bird"), ("in/c.png", "red", "fish"),
        ):  # fmt: skip
            client.put_object(Bucket=photos, Key=key, Body=b"x", Metadata={"color": color}, Tagging=f"kind={tag}")
        assert sink.accepted_keys() == ["in/a.png"]
        assert sink.accepted[0].json()["opaqueData"] == "me & you"
        notify(topics, photos, url.replace("//", "//birds:wrong@"), {"verify-ssl": "false"}, wish)
        client.put_object(Bucket=photos, Key="in/d.png", Body=b"x", Metadata={"color": "red"}, Tagging="kind=bird")
        assert len(sink.received) == 1
    # A password conceals all topics of the user from whoever asks over HTTP: no other test is to meet it.
    without_notifications(ceph, photos)
    topics._sns.delete_topic(TopicArn=topics._arn(f"topic-of-{photos}"))


def test_a_topic_reaches_us_through_rabbitmq(
    ceph: Ceph, photos: str, topics: Topics, rabbitmq: RabbitMq, tmp_path: Path
) -> None:
    queue, client = f"queue-{photos}", ceph.s3()

    async def make(channel: AbstractChannel) -> None:
        made = await channel.declare_queue(queue, durable=True)
        await made.bind("amq.topic", f"topic-of-{photos}")

    rabbitmq.do(make)
    broker = {"amqp-exchange": "amq.topic", "amqp-ack-level": "broker"}
    notify(topics, photos, f"amqp://127.0.0.1:{rabbitmq.port}", broker)
    for key in KEYS:
        client.put_object(Bucket=photos, Key=key, Body=b"x")
    arguments = ("source", "amqp", "--http-port=0", f"--amqp-queue={queue}", f"--amqp-url={rabbitmq.url}")
    with scripted_sink() as sink, running(
        "whimbrel.eventing", *arguments, log=tmp_path / "source.log", K_SINK=sink.url
    ) as source:  # fmt: skip
        source.wait_until(lambda: set(sink.accepted_keys()) == set(KEYS), "every key", 90)
        assert {object_event(event).object.bucket for event in sink.accepted} == {photos}
    rabbitmq.delete_queue(queue)


def without_notifications(ceph: Ceph, bucket: str) -> None:
    """RGW's own request: boto3 has none, and 16.2 refuses the empty configuration that S3 takes."""
    signed = Signer(ceph.endpoint, "us-east-1", CREDENTIALS).sign("DELETE", (bucket,), {"notification": ""})
    assert httpx.request(signed.method, signed.url, headers=dict(signed.headers)).status_code == 200


def test_conditional_puts_of_rgw_16(ceph: Ceph, photos: str) -> None:
    """`If-None-Match: *` holds, for racing writers too. `If-Match` does where the eTag comes without its quotes."""
    client = ceph.s3()
    assert race(client, Bucket=photos, Key="once", IfNoneMatch="*") <= 1
    first = client.head_object(Bucket=photos, Key="once")["ETag"]
    for refused in ({"IfNoneMatch": "*"}, {"IfMatch": first}, {"IfMatch": "0" * 32}):
        assert race(client, Bucket=photos, Key="once", **refused) == 0
    assert client.head_object(Bucket=photos, Key="once")["ETag"] == first
    assert race(client, Bucket=photos, Key="once", IfMatch=first.strip('"')) <= 1
    second = client.head_object(Bucket=photos, Key="once")["ETag"]
    assert second != first
    assert race(client, Bucket=photos, Key="once", IfMatch=first.strip('"')) == 0
    assert client.head_object(Bucket=photos, Key="once")["ETag"] == second
    assert race(client, Bucket=photos, Key="absent", IfMatch=first.strip('"')) == 0


def race(client: S3Client, **put: Any) -> int:
    """How many of eight writers at once, each of other bytes, were told that they wrote.

    The others were told 412, or 500: RGW says so at times to who races, and then has a retry of the winner lose too.
    """
    ready = threading.Barrier(8)

    def write(number: int) -> bool:
        ready.wait(10)
        try:
            client.put_object(Body=f"{number} {uuid.uuid4()}".encode(), **put)
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (412, 500)
            return False
        return True

    with ThreadPoolExecutor(8) as writers:
        return sum(writers.map(write, range(8)))


def test_a_persistent_topic_outlives_its_gateway_its_receiver_and_an_outage_of_the_sink(
    queued: Queued, receiver: Callable[..., Any]
) -> None:
    away, hold = threading.Event(), threading.Event()
    away.set()

    def script(event: Event, attempt: int) -> Reply:
        if away.is_set():
            return Reply(503)
        return Reply(hold=hold) if event.subject == KEYS[0] else Reply()

    with (
        scripted_sink(script) as sink,
        receiver(sink.url, "--push-answer-seconds=1", "--delivery-attempts=2", port=queued.port) as (source, url),
    ):
        source.wait_until(
            lambda: len({event.id for event in sink.received}) >= 5, "events in an outage of the sink", 90
        )
        assert sink.accepted == []
        source.kill()
        away.clear()
        source.start()
        source.wait_until(lambda: len(set(sink.accepted_keys())) >= 10, "10 accepted events", 120)
        source.kill_and_restart()
        source.wait_until(lambda: answers(f"{url}/healthz"), "readiness")
        hold.set()
        source.wait_until(lambda: set(sink.accepted_keys()) == set(queued.keys), "every event", 120)
        assert source.stop() == 0
    assert len({event.id for event in sink.accepted}) == len(queued.keys), "a redelivered event keeps its id"
