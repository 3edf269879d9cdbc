"""`whimbrel rgw`: topics and notifications of Ceph's gateway, to push or to pull."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from whimbrel.cli.console import Output, add_rows, out, print_json, say, table
from whimbrel.cli.options import OutputFormat
from whimbrel.cli.rgw_setup import setup
from whimbrel.core.settings import S3Settings, load

if TYPE_CHECKING:
    from whimbrel.eventing.rgw.pubsub import PubSub
    from whimbrel.eventing.rgw.pull_documents import PulledEvent

Answer = TypeVar("Answer")

PullGateway = Annotated[
    str, typer.Option("--endpoint", envvar="WHIMBREL_RGW_PUBSUB_ENDPOINT", help="URL of the pubsub zone's gateway")
]
TopicName = Annotated[str, typer.Argument(help="name of the topic")]
BucketArgument = Annotated[str, typer.Argument(help="name of the bucket")]
SubscriptionName = Annotated[str, typer.Argument(help="name of the subscription")]

app = typer.Typer(
    no_args_is_help=True,
    help="Set up Ceph's gateway: push (`setup`), or pull mode (the rest; a pubsub zone of Ceph up to 17). Credentials "
    "are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
)
topics = typer.Typer(no_args_is_help=True, help="What buckets notify and subscriptions read.")
notifications = typer.Typer(no_args_is_help=True, help="Which bucket notifies which topic of what.")
subscriptions = typer.Typer(no_args_is_help=True, help="What keeps a topic's events until they are acknowledged.")
events = typer.Typer(no_args_is_help=True, help="The events of a subscription.")
for name, group in (
    ("topics", topics), ("notifications", notifications), ("subscriptions", subscriptions), ("events", events),
):  # fmt: skip
    app.add_typer(group, name=name)
app.command()(setup)


@topics.command("ls")
def list_topics(endpoint: PullGateway, output: OutputFormat = Output.TABLE) -> None:
    """List the topics with their subscriptions."""
    found = _asked(endpoint, lambda pubsub: pubsub.topics())
    rows = [{"name": topic.name, "arn": topic.arn, "subscriptions": list(topic.subscriptions)} for topic in found]
    _show(output, rows, "name", "arn", "subscriptions")


@topics.command("get")
def get_topic(topic: TopicName, endpoint: PullGateway) -> None:
    """Print one topic as JSON."""
    found = _asked(endpoint, lambda pubsub: pubsub.topic(topic))
    print_json({"name": found.name, "arn": found.arn, "subscriptions": list(found.subscriptions)})


@topics.command("create")
def create_topic(topic: TopicName, endpoint: PullGateway) -> None:
    """Create a topic; does nothing where there is one."""
    _asked(endpoint, lambda pubsub: pubsub.create_topic(topic))
    say(f"topic {topic}")


@topics.command("delete")
def delete_topic(topic: TopicName, endpoint: PullGateway) -> None:
    """Delete a topic."""
    _asked(endpoint, lambda pubsub: pubsub.delete_topic(topic))
    say(f"deleted topic {topic}")


@notifications.command("ls")
def list_notifications(bucket: BucketArgument, endpoint: PullGateway, output: OutputFormat = Output.TABLE) -> None:
    """List what a bucket notifies."""
    found = _asked(endpoint, lambda pubsub: pubsub.notifications(bucket))
    _show(output, [{"topic": each.topic, "events": list(each.events)} for each in found], "topic", "events")


@notifications.command("create")
def create_notification(
    bucket: BucketArgument,
    topic: TopicName,
    endpoint: PullGateway,
    event: Annotated[
        list[str] | None, typer.Option(help="OBJECT_CREATE, OBJECT_DELETE or DELETE_MARKER_CREATE; absent: all")
    ] = None,
) -> None:
    """Let a bucket notify a topic."""
    _asked(endpoint, lambda pubsub: pubsub.create_notification(bucket, topic, event or ()))
    say(f"bucket {bucket} notifies topic {topic}")


@notifications.command("delete")
def delete_notification(
    bucket: BucketArgument,
    endpoint: PullGateway,
    topic: Annotated[str | None, typer.Option(help="of this topic alone")] = None,
) -> None:
    """End what a bucket notifies."""
    _asked(endpoint, lambda pubsub: pubsub.delete_notification(bucket, topic))
    say(f"bucket {bucket} notifies {'nothing' if topic is None else f'topic {topic} no longer'}")


@subscriptions.command("get")
def get_subscription(subscription: SubscriptionName, endpoint: PullGateway) -> None:
    """Print one subscription as JSON; `topics ls` lists their names."""
    found = _asked(endpoint, lambda pubsub: pubsub.subscription(subscription))
    print_json({"name": found.name, "topic": found.topic, "push_endpoint": found.push_endpoint})


@subscriptions.command("ls")
def list_subscriptions(endpoint: PullGateway, output: OutputFormat = Output.TABLE) -> None:
    """List the subscriptions of all topics."""
    found = _asked(endpoint, lambda pubsub: pubsub.topics())
    _show(
        output,
        [{"name": each, "topic": topic.name} for topic in found for each in topic.subscriptions],
        "name",
        "topic",
    )


@subscriptions.command("create")
def create_subscription(subscription: SubscriptionName, topic: TopicName, endpoint: PullGateway) -> None:
    """Keep a topic's events, from now on, until they are acknowledged."""
    _asked(endpoint, lambda pubsub: pubsub.create_subscription(subscription, topic))
    say(f"subscription {subscription} of topic {topic}")


@subscriptions.command("delete")
def delete_subscription(subscription: SubscriptionName, endpoint: PullGateway) -> None:
    """Delete a subscription and its events."""
    _asked(endpoint, lambda pubsub: pubsub.delete_subscription(subscription))
    say(f"deleted subscription {subscription}")


@events.command("ls")
def list_events(
    subscription: SubscriptionName,
    endpoint: PullGateway,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="most events to list")] = 100,
    output: OutputFormat = Output.TABLE,
) -> None:
    """List the events that nobody acknowledged, the oldest first."""

    async def all_pages(pubsub: PubSub) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        marker: str | None = None
        while len(found) < limit:
            page = await pubsub.events(subscription, marker=marker, most=min(1000, limit - len(found)))
            found += [dict(event.record) if output is Output.JSON else _row(event) for event in page.events]
            marker = page.next_marker
            if marker is None:
                break
        return found

    _show(output, _asked(endpoint, all_pages), "id", "event", "key", "time")


@events.command("ack")
def ack_events(
    subscription: SubscriptionName,
    event_ids: Annotated[list[str], typer.Argument(help="as `events ls` lists them")],
    endpoint: PullGateway,
) -> None:
    """Acknowledge events: they are not listed again."""

    async def acknowledge(pubsub: PubSub) -> None:
        for event_id in event_ids:
            await pubsub.ack(subscription, event_id)

    _asked(endpoint, acknowledge)
    say(f"acknowledged {len(event_ids)} events")


def _asked(endpoint: str, call: Callable[[PubSub], Awaitable[Answer]]) -> Answer:
    """One conversation with the gateway."""
    from whimbrel.eventing.rgw.pubsub import pubsub_client

    async def conversation() -> Answer:
        async with pubsub_client(load(S3Settings, [], program="whimbrel rgw"), endpoint) as pubsub:
            return await call(pubsub)

    return asyncio.run(conversation())


def _row(event: PulledEvent) -> dict[str, object]:
    """What a person wants to see of an event in either of the gateway's shapes."""
    from whimbrel.eventing.notifications import read_record
    from whimbrel.eventing.upstream import Unreadable

    reading = read_record(event.record)
    if isinstance(reading, Unreadable):
        return {"id": event.id, "event": "unreadable", "key": str(reading.error), "time": ""}
    kind = reading.type.rpartition("com.amazonaws.s3.")[2]
    return {"id": event.id, "event": kind, "key": reading.subject, "time": reading.time}


def _show(output: Output, documents: Sequence[Mapping[str, object]], *columns: str) -> None:
    if output is Output.JSON:
        print_json(documents)
        return
    rows = ([_cell(document.get(column)) for column in columns] for document in documents)
    out.print(add_rows(table(*(column.upper() for column in columns)), rows))


def _cell(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
