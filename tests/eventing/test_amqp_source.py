"""The AMQP source against a real RabbitMQ and a real sink that misbehaves, killed and cut off in the middle."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from testbed.processes import Running, running, wait_for
from testbed.rabbitmq import RabbitMq
from testbed.sinks import Reply, scripted_sink
from whimbrel.core.cloudevent import Event
from whimbrel.core.records import object_event

from .conftest import notification, record

CAPTURED = Path(__file__).parents[1] / "data" / "rgw"
QUICK = ("--http-port=0", "--backoff-seconds=0.05", "--backoff-max-seconds=0.2", "--amqp-heartbeat-seconds=5")

Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def queue(rabbitmq: RabbitMq) -> Iterator[str]:
    name = f"photos-{uuid.uuid4().hex[:8]}"
    rabbitmq.make_queue(name)
    yield name
    rabbitmq.delete_queue(name)


@pytest.fixture
def source(rabbitmq: RabbitMq, queue: str, tmp_path: Path) -> Start:
    """`python -m whimbrel.eventing source amqp` for `queue`; a graceful stop at the end of the block."""

    def run(sink: str, *arguments: str, **environment: str) -> AbstractContextManager[Running]:
        given = ("source", "amqp", f"--amqp-queue={queue}", *QUICK, *arguments)
        settings = {"WHIMBREL_AMQP_URL": rabbitmq.url, "K_SINK": sink} | environment
        return running("whimbrel.eventing", *given, log=tmp_path / "source.log", **settings)

    return run


def test_what_rgw_publishes_arrives(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    captured = [path.read_text().partition("\n\n")[2] for path in sorted(CAPTURED.glob("amqp_*.txt"))]
    assert len(captured) == 3
    rabbitmq.publish(queue, captured)
    with scripted_sink() as sink, source(sink.url) as process:
        process.wait_until(lambda: len(sink.accepted) == 3, "three events")
        assert process.stop() == 0
    events = [object_event(event) for event in sink.accepted]
    assert {event.object.bucket for event in events} == {"evam-broker", "evam-none", "evam-routable"}
    assert {event.event_source for event in events} == {"ceph:s3"}
    assert rabbitmq.ready(queue) == 0


def test_what_is_published_arrives_over_tls(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    rabbitmq.publish(queue, [notification(record("k"))])
    trusted = f"--amqp-ca-bundle={rabbitmq.certificate}"
    with scripted_sink() as sink, source(sink.url, trusted, WHIMBREL_AMQP_URL=rabbitmq.tls_url) as process:
        process.wait_until(lambda: sink.accepted_keys() == ["k"], "the event")
        assert process.stop() == 0


def test_a_killed_source_and_a_killed_broker_lose_nothing(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    keys = [f"k{n}" for n in range(300)]
    rabbitmq.publish(queue, [notification(record(key)) for key in keys])
    hold = threading.Event()
    with scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink, source(sink.url) as process:
        process.wait_until(lambda: len(sink.received) >= 20, "20 events in flight")
        process.kill_and_restart()  # nothing was acknowledged
        process.wait_until(lambda: len(sink.received) >= 40, "20 more in flight")
        rabbitmq.kill()
        rabbitmq.start()
        hold.set()
        process.wait_until(lambda: set(sink.accepted_keys()) == set(keys), "every key at the sink", 60)
        process.wait_until(lambda: rabbitmq.ready(queue) == 0, "an empty queue")
        assert process.stop() == 0
        assert rabbitmq.ready(queue) == 0


def test_sigterm_finishes_what_is_in_flight_and_returns_the_rest(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    rabbitmq.publish(queue, [notification(record(f"k{n}")) for n in range(12)])
    hold = threading.Event()
    with (
        scripted_sink(lambda event, attempt: Reply(hold=hold)) as sink,
        source(sink.url, "--max-in-flight=4") as process,
    ):
        process.wait_until(lambda: len(sink.received) == 4, "4 events in flight")
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: rabbitmq.ready(queue) > 4, "waiting ones back in the queue")
        hold.set()
        assert process.process.wait(60) == 0
        assert len(sink.accepted_keys()) == 4
        wait_for(lambda: rabbitmq.ready(queue) == 8, "the rest in the queue")


def test_an_event_that_fails_keeps_its_keys_turn_and_ends_as_a_dead_letter(
    rabbitmq: RabbitMq, queue: str, source: Start
) -> None:
    rabbitmq.publish(queue, [notification(record("bad", 1)), notification(record("bad", 2)), notification(record("b"))])

    def script(event: Event, attempt: int) -> Reply:
        return Reply(500, b"no") if event.time and event.time.second == 1 else Reply()

    with scripted_sink(script) as sink, scripted_sink() as letters:
        limits = ("--delivery-attempts=2", "--max-rounds=3", f"--dead-letter-sink={letters.url}")
        with source(sink.url, *limits) as process:
            process.wait_until(lambda: len(sink.accepted) == 2, "the two others")
            assert process.stop() == 0
    (letter,) = letters.accepted
    assert (letter.subject, letter.extensions["knativeerrorcode"]) == ("bad", "500")
    assert letter.extensions["knativeerrordest"] == sink.url
    assert letter.extensions["whimbrelattempts"] == "6"
    order = [event.time.second for event in sink.received if event.subject == "bad" and event.time]
    assert order == [1, 1, 1, 1, 1, 1, 2]
    assert rabbitmq.ready(queue) == 0


def test_an_event_that_is_held_too_long_goes_to_the_end_of_the_queue_with_its_count(
    rabbitmq: RabbitMq, queue: str, source: Start
) -> None:
    rabbitmq.publish(queue, [notification(record("bad"))])
    with scripted_sink(lambda event, attempt: Reply(500)) as sink, scripted_sink() as letters:
        limits = ("--delivery-attempts=1", "--max-rounds=4", "--amqp-hold-seconds=0")
        with source(sink.url, *limits, f"--dead-letter-sink={letters.url}") as process:
            process.wait_until(lambda: letters.accepted, "the dead letter")
            assert process.stop() == 0
    assert len(sink.received) == 4
    assert letters.accepted[0].extensions["whimbrelattempts"] == "4"
    assert rabbitmq.ready(queue) == 0


def test_what_cannot_be_read_becomes_a_dead_letter(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    bodies = [b"", b"\xff\x00", b"{", json.dumps([1]).encode(), notification(record("a%00b")).encode()]
    rabbitmq.publish(queue, [*bodies, notification(record("good"))])
    with (
        scripted_sink() as sink,
        scripted_sink() as letters,
        source(sink.url, f"--dead-letter-sink={letters.url}") as process,
    ):
        process.wait_until(lambda: len(letters.accepted) == len(bodies) and sink.accepted, "all of them")
        assert process.stop() == 0
    assert sink.accepted_keys() == ["good"]
    assert {letter.data or b"" for letter in letters.accepted} >= set(bodies[:4])
    assert {letter.source for letter in letters.accepted} == {f"/whimbrel/sources/amqp/{queue}"}
    assert rabbitmq.ready(queue) == 0


def test_a_deleted_queue_is_waited_for(rabbitmq: RabbitMq, queue: str, source: Start) -> None:
    with scripted_sink() as sink, source(sink.url) as process:
        rabbitmq.publish(queue, [notification(record("first"))])
        process.wait_until(lambda: sink.accepted_keys() == ["first"], "the first event")
        rabbitmq.delete_queue(queue)
        process.wait_until(lambda: "was the queue deleted?" in process.output(), "the news")
        rabbitmq.make_queue(queue)
        rabbitmq.publish(queue, [notification(record("second"))])
        process.wait_until(lambda: sink.accepted_keys() == ["first", "second"], "the second event")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "does not exist"),
        (("--amqp-url=amqp://guest:wrong@127.0.0.1:{port}/",), "refused user or password"),
        (("--amqp-url=amqp://guest:guest@127.0.0.1:{port}/nowhere",), "does the virtual host exist"),
        (("--amqp-username=guest", "--amqp-password=wrong/@"), "refused user or password"),
        (("--amqp-url=amqp://guest:guest@127.0.0.1:1/",), "no broker answers"),
        (("--amqp-url=amqps://guest:guest@127.0.0.1:{tls_port}/",), "certificate verify failed"),
    ],
)
def test_what_is_not_there_ends_the_start_within_its_bound(
    rabbitmq: RabbitMq, queue: str, source: Start, arguments: tuple[str, ...], told: str
) -> None:
    given = [argument.format(port=rabbitmq.port, tls_port=rabbitmq.tls_port) for argument in arguments]
    with source("http://127.0.0.1:1/", "--amqp-queue=none", *given, "--startup-wait-seconds=0.5") as process:
        assert process.process.wait(60) == 1
        last = json.loads(process.output().splitlines()[-1])
    assert told in last["message"]
    assert "wrong" not in process.output()


def test_a_wanted_queue_is_made_and_bound(rabbitmq: RabbitMq, source: Start) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    wanted = (f"--amqp-queue={name}", "--amqp-declare=true", f"--amqp-exchange=ex-{name}", "--amqp-routing-key=topic")

    async def publish(channel: AbstractChannel) -> None:
        exchange = await channel.get_exchange(f"ex-{name}")
        await exchange.publish(Message(notification(record("k")).encode()), "topic")

    with scripted_sink() as sink, source(sink.url, *wanted) as process:
        process.wait_until(lambda: is_ready(process), "a consumer")
        rabbitmq.do(publish)
        process.wait_until(lambda: "k" in sink.accepted_keys(), "the event")
    rabbitmq.delete_queue(name)


def is_ready(process: Running) -> bool:
    listening = [line for line in process.output().splitlines() if '"listening on ' in line]
    if not listening:
        return False
    address = json.loads(listening[0])["message"].removeprefix("listening on ")
    return httpx.get(f"http://{address}/healthz").status_code == 200
