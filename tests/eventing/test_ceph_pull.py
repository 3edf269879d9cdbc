"""The pull mode of a real Ceph 16.2: its REST API, and the source that empties a subscription."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from botocore.credentials import Credentials

from testbed.ceph import ACCESS_KEY, Ceph
from testbed.ceph_pull import CREDENTIALS, FIRST, PulledBucket, ask, pulled_bucket
from testbed.ceph_push import Queued
from testbed.processes import Running, running, wait_for
from testbed.sinks import Reply, scripted_sink
from whimbrel.core.cloudevent import Event
from whimbrel.core.errors import InputRefused, NotFound, Unavailable
from whimbrel.core.records import object_event
from whimbrel.core.redelivery import DELIVERIES
from whimbrel.eventing.rgw.pubsub import PubSub
from whimbrel.eventing.rgw.signing import Signer

PATIENCE = 120.0  # seconds, on a machine with much else to do

PullSource = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def pulled(ceph: Ceph, queued: Queued) -> PulledBucket:
    return pulled_bucket(ceph)


@pytest.fixture
def pull_source(pulled: PulledBucket, tmp_path: Path) -> PullSource:
    """`python -m whimbrel.eventing source rgw-pubsub` for the subscription."""

    def run(sink: str, **settings: str) -> AbstractContextManager[Running]:
        return running(
            "whimbrel.eventing",
            *("source", "rgw-pubsub", "--http-port=0", "--backoff-seconds=0.05", "--backoff-max-seconds=0.1"),
            f"--rgw-pubsub-endpoint={pulled.ceph.pubsub_endpoint}",
            f"--rgw-subscription={pulled.subscription}",
            log=tmp_path / "source.log",
            K_SINK=sink,
            **pulled.ceph.credentials,
            **{f"WHIMBREL_{name.upper()}": value for name, value in settings.items()},
        )

    return run


def test_topics_notifications_and_subscriptions_are_made_seen_and_deleted(pulled: PulledBucket) -> None:
    async def live(pubsub: PubSub) -> None:
        topic, subscription = f"{pulled.topic}.second", f"{pulled.subscription}.second"
        await pubsub.create_topic(topic)
        await pubsub.create_topic(topic)
        await pubsub.create_subscription(subscription, topic)
        assert (await pubsub.topic(topic)).subscriptions == (subscription,)
        assert topic in [found.name for found in await pubsub.topics()]
        assert (await pubsub.subscription(subscription)).topic == topic
        assert (await pubsub.events(subscription)).events == ()
        assert [(found.topic, found.events) for found in await pubsub.notifications(pulled.bucket)] == [
            (pulled.topic, ("OBJECT_CREATE", "OBJECT_DELETE", "DELETE_MARKER_CREATE"))
        ]
        await pubsub.delete_subscription(subscription)
        await pubsub.delete_topic(topic)
        for absent in (pubsub.subscription(subscription), pubsub.topic(topic), pubsub.events(subscription)):
            with pytest.raises(NotFound):
                await absent
        with pytest.raises(InputRefused, match="expected a topic name"):
            await pubsub.create_topic("a/b")
        with pytest.raises(InputRefused, match="expected events among"):
            await pubsub.create_notification(pulled.bucket, pulled.topic, ["PUT"])

    pulled.ask(live)


def test_wrong_credentials_and_a_gateway_without_a_pubsub_zone_are_named(ceph: Ceph, pulled: PulledBucket) -> None:
    wrong = Signer(ceph.pubsub_endpoint, "us-east-1", Credentials(ACCESS_KEY, "wrong"))
    with pytest.raises(Unavailable, match="403 SignatureDoesNotMatch; check credentials and clock"):
        ask(ceph, lambda pubsub: pubsub.topics(), wrong)
    with pytest.raises(NotFound, match="404 NoSuchBucket; create it, or wait until the pubsub zone has synced it"):
        ask(ceph, lambda pubsub: pubsub.topics(), Signer(ceph.endpoint, "us-east-1", CREDENTIALS))


def test_two_hundred_objects_arrive_though_the_source_is_killed_and_the_sink_fails(
    pulled: PulledBucket, pull_source: PullSource
) -> None:
    keys = [f"in/a b+ü&%41-{n}.png" for n in range(200)]
    pulled.put(*keys)
    pulled.await_all(lambda: pulled.keys() >= set(keys), "200 events")

    def script(event: Event, attempt: int) -> Reply:
        number = int(re.findall(r"\d+", event.subject or "")[-1])
        return Reply(503) if number % 7 == 3 and attempt <= 2 else Reply()

    with scripted_sink(script) as sink, pull_source(sink.url, rgw_page_events="30") as source:
        source.wait_until(lambda: len(sink.accepted) >= 40, "the first 40 events", PATIENCE)
        source.kill_and_restart()
        source.wait_until(lambda: len(sink.accepted) >= 120, "120 events", PATIENCE)
        source.kill_and_restart()
        source.wait_until(lambda: not pulled.keys(), "an empty subscription", PATIENCE)
        pulled.put("one-more-0")
        source.wait_until(
            lambda: "one-more-0" in sink.accepted_keys(), "an event after the subscription was empty", PATIENCE
        )
        source.wait_until(lambda: not pulled.keys(), "an empty subscription once more", PATIENCE)
        assert source.stop() == 0
    accepted = [event for event in sink.accepted if event.subject != FIRST]
    assert {event.subject for event in accepted} == {*keys, "one-more-0"}
    assert len({event.id for event in accepted}) == len({event.json()["id"] for event in accepted})
    event = object_event(accepted[0])
    assert (event.object.bucket, event.name) == (pulled.bucket, "ObjectCreated:*")


def test_what_the_sink_does_not_take_stays_and_nothing_else_waits_for_it(
    pulled: PulledBucket, pull_source: PullSource
) -> None:
    good, bad = ([f"{name}-{n}" for n in range(10)] for name in ("good", "bad"))
    pulled.put(*bad, *good, "refused")
    pulled.await_all(lambda: pulled.keys() >= {*bad, *good, "refused"}, "21 events")
    mended = False

    def script(event: Event, attempt: int) -> Reply:
        if event.subject == "refused":
            return Reply(422, b'{"error": "expected a picture"}')
        return Reply(500) if (event.subject or "").startswith("bad") and not mended else Reply()

    with scripted_sink(script) as sink, scripted_sink() as letters:
        settings = {"delivery_attempts": "2", "max_in_flight": "2", "dead_letter_sink": letters.url}
        with pull_source(sink.url, **settings) as source:
            source.wait_until(lambda: pulled.keys() == set(bad), "all but the bad ones acknowledged", PATIENCE)
            mended = True
            source.wait_until(lambda: not pulled.keys(), "an empty subscription", PATIENCE)
        assert letters.accepted_keys() == ["refused"]
        assert set(sink.accepted_keys()) - {FIRST} == {*good, *bad}
        for key in bad:
            rounds = {int(event.extensions.get(DELIVERIES, "1")) for event in sink.received if event.subject == key}
            assert rounds == set(range(1, len(rounds) + 1)), "each is counted once"


def test_a_source_without_its_subscription_says_what_is_missing(ceph: Ceph, tmp_path: Path) -> None:
    ceph.start_pubsub()
    with running(
        "whimbrel.eventing",
        *("source", "rgw-pubsub", "--http-port=0", "--startup-wait-seconds=0.2", "--rgw-subscription=nowhere"),
        f"--rgw-pubsub-endpoint={ceph.pubsub_endpoint}",
        log=tmp_path / "source.log",
        K_SINK="http://127.0.0.1:9/",
        **ceph.credentials,
    ) as source:
        assert source.process.wait(60) == 1
        assert "there is none; create it with 'whimbrel rgw subscriptions create'" in source.output()


def test_a_younger_event_of_a_key_never_overtakes_an_older_one(pulled: PulledBucket, pull_source: PullSource) -> None:
    client = pulled.ceph.s3()
    client.put_bucket_versioning(Bucket=pulled.bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = [client.put_object(Bucket=pulled.bucket, Key="same", Body=b"x")["VersionId"] for _ in range(4)]
    pulled.await_all(lambda: len(waiting(pulled, "same")) == len(versions), "an event of each version")

    def script(event: Event, attempt: int) -> Reply:
        return Reply(503) if attempt <= 2 else Reply()

    with scripted_sink(script) as sink, pull_source(sink.url, delivery_attempts="1"):
        wait_for(lambda: not pulled.keys(), "an empty subscription", PATIENCE)
    delivered = [object_event(event).object.version_id for event in sink.accepted if event.subject == "same"]
    assert list(dict.fromkeys(delivered)) == versions
    assert sink.most_at_once_of_a_key == 1


def waiting(pulled: PulledBucket, key: str) -> list[str]:
    page = pulled.ask(lambda pubsub: pubsub.events(pulled.subscription, most=1000))
    return [event.id for event in page.events if event.record["info"]["key"]["name"] == key]
