"""`make bench-sources`: events from a queue to an accepting sink, against one at a time and the HTTP stack alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
from null_sink import null_sink
from report import machine, spread, write_section

from testbed.kafka import Kafka, kafka_cluster_process
from testbed.rabbitmq import RabbitMq, rabbitmq_node
from whimbrel.core.cloudevent import Event, binary
from whimbrel.eventing.amqp import AmqpSourceSettings
from whimbrel.eventing.delivery import http_client
from whimbrel.eventing.notifications import read_notification
from whimbrel.eventing.settings import DeliverySettings
from whimbrel.eventing.source_process import deliver_all
from whimbrel.eventing.sources.amqp import AmqpUpstream
from whimbrel.eventing.sources.kafka import KafkaSourceSettings, KafkaUpstream
from whimbrel.eventing.upstream import Message, Upstream

BEGIN, END = "<!-- sources: written by `make bench-sources` -->", "<!-- /sources -->"
CAPTURED = Path(__file__).parents[1] / "tests" / "data" / "rgw" / "amqp_broker.txt"
QUEUED = (1_000, 10_000, 100_000)
IN_FLIGHT = 32
SLOW_SECONDS = 0.01  # of a sink that answers after a store of its own has


@dataclass(frozen=True)
class Measured:
    """`cpu` is this process's own, in microseconds an event."""

    rate: float
    cpu: float


def bodies(count: int, first: int = 0) -> list[str]:
    """Notifications as RGW publishes them, each of another object."""
    document = json.loads(CAPTURED.read_text().partition("\n\n")[2])
    record = document["Records"][0]
    texts = []
    for number in range(first, first + count):
        record["s3"]["object"]["key"] = f"in/{number:08}.jpg"
        record["responseElements"]["x-amz-request-id"] = f"c63169c2-f6ba-42c0-9395-eacab5ff357f.4154.{number}"
        texts.append(json.dumps(document))
    return texts


async def timed(count: int, work: Callable[[], Awaitable[object]]) -> Measured:
    started, spent = time.perf_counter(), time.process_time()
    await work()
    return Measured(count / (time.perf_counter() - started), (time.process_time() - spent) / count * 1e6)


async def http_alone(sink: str, count: int) -> Measured:
    """The same requests, written beforehand, by as many clients as the source has in flight."""
    (event,) = read_notification(bodies(1)[0].encode())
    assert isinstance(event, Event)
    headers, body = binary(event)
    left = iter(range(count))
    async with http_client() as client:

        async def post_all() -> None:
            for _ in left:
                async with client.post(sink, headers=headers, data=body) as response:
                    assert response.status == 202

        return await timed(count, lambda: asyncio.gather(*(post_all() for _ in range(IN_FLIGHT))))


async def one_at_a_time(node: RabbitMq, queue: str, sink: str, count: int) -> Measured:
    """Get, post, acknowledge, and then the next: the same libraries without a window."""
    async with await aio_pika.connect(node.url) as connection, http_client() as client:
        declared = await (await connection.channel()).get_queue(queue)

        async def loop() -> None:
            for _ in range(count):
                message = await declared.get()
                (event,) = read_notification(message.body)
                assert isinstance(event, Event)
                headers, body = binary(event)
                async with client.post(sink, headers=headers, data=body) as response:
                    assert response.status == 202
                await message.ack()

        return await timed(count, loop)


async def source(upstream: Upstream, settings: DeliverySettings, count: int) -> Measured:
    """From the first message received to the last accepted upstream."""
    stopping, first, last = asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen = 0
    receive, accept = upstream.receive, upstream.accept

    async def receive_and_tell() -> list[Message]:
        messages = await receive()
        if messages:
            first.set()
        return messages

    async def accept_and_count(messages: Sequence[Message]) -> None:
        nonlocal seen
        await accept(messages)
        seen += len(messages)
        if seen >= count:
            last.set()

    counted: Any = upstream
    counted.receive, counted.accept = receive_and_tell, accept_and_count
    await upstream.open()
    running = asyncio.create_task(deliver_all(settings, upstream, stopping))
    await first.wait()
    measured = await timed(count, last.wait)
    stopping.set()
    await running
    await upstream.close()
    return measured


async def amqp_source(node: RabbitMq, queue: str, sink: str, count: int) -> Measured:
    settings = AmqpSourceSettings(sink=sink, amqp_url=node.url, amqp_queue=queue, max_in_flight=IN_FLIGHT)
    return await source(AmqpUpstream(settings), settings, count)


async def kafka_source(kafka: Kafka, topic: str, sink: str, count: int) -> Measured:
    given: Any = {"kafka_brokers": kafka.brokers, "kafka_topics": topic, "kafka_group": topic}
    settings = KafkaSourceSettings(sink=sink, max_in_flight=IN_FLIGHT, **given)
    return await source(KafkaUpstream(settings), settings, count)


@dataclass(frozen=True)
class Round:
    alone: Measured
    single: Measured
    amqp: Measured
    kafka: Measured


def one_round(node: RabbitMq, kafka: Kafka, sink: str, count: int, topic: str) -> Round:
    few = count // 5  # the slow loop
    node.publish("bench", bodies(count + few))
    kafka.produce(topic, [(f"k{n}", body) for n, body in enumerate(bodies(count))])
    return Round(
        alone=asyncio.run(http_alone(sink, count)),
        single=asyncio.run(one_at_a_time(node, "bench", sink, few)),
        amqp=asyncio.run(amqp_source(node, "bench", sink, count)),
        kafka=asyncio.run(kafka_source(kafka, topic, sink, count)),
    )


def rate_table(rounds: Sequence[Round]) -> list[str]:
    def row(what: str, pick: Callable[[Round], Measured]) -> str:
        single = spread([pick(each).rate / each.single.rate for each in rounds], 1)
        alone = spread([pick(each).rate / each.alone.rate for each in rounds], 2)
        cpu = spread([pick(each).cpu for each in rounds])
        return f"| {what} | {spread([pick(each).rate for each in rounds])} | {single} | {alone} | {cpu} |"

    return [
        "| What | events/s | / one at a time | / HTTP stack alone | own CPU, µs an event |",
        "|---|---|---|---|---|",
        row("HTTP stack alone: the same requests, prepared", lambda each: each.alone),
        row("RabbitMQ, one at a time: get, post, acknowledge", lambda each: each.single),
        row("**`source amqp`**, RabbitMQ", lambda each: each.amqp),
        row("**`source kafka`**, librdkafka's mock cluster", lambda each: each.kafka),
    ]


def length_table(node: RabbitMq, sink: str, sections: int) -> list[str]:
    """The cost of a thousand events while so many wait."""
    table = ["| Queued on RabbitMQ | events/s | own CPU, µs an event |", "|---|---|---|"]
    waiting = 0
    for queued in QUEUED:
        seen = []
        for _ in range(sections):
            node.publish("long", bodies(queued - waiting))
            seen.append(asyncio.run(amqp_source(node, "long", sink, QUEUED[0])))
            waiting = node.ready("long")
        rates, costs = spread([each.rate for each in seen]), spread([each.cpu for each in seen])
        table.append(f"| {queued:,} | {rates} | {costs} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--print-only", action="store_true", help="leave benchmarks/README.md as it is")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = stack.enter_context(rabbitmq_node(folder))
        kafka = stack.enter_context(kafka_cluster_process())
        for queue in ("bench", "long"):
            node.make_queue(queue)
        lines = [f"{machine('aiohttp', 'aio-pika', 'confluent-kafka')} {given.rounds} rounds, median (least to most)."]
        for seconds, what in (
            (0.0, "A sink that answers at once:"),
            (SLOW_SECONDS, "A sink that answers after 10 ms:"),
        ):
            sink = stack.enter_context(null_sink(seconds))
            count = given.events if not seconds else given.events // 2
            rounds = [one_round(node, kafka, sink, count, f"t{seconds:g}-{n}") for n in range(given.rounds)]
            lines += ["", what, "", *rate_table(rounds)]
        sink = stack.enter_context(null_sink())
        lines += ["", *length_table(node, sink, given.rounds)]
    print("\n".join(lines))
    if not given.print_only:
        write_section(BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
