"""A subscription in the pubsub zone of the real Ceph, ready: the zone has synced what it is made of."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from botocore.credentials import Credentials

from testbed.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from testbed.processes import wait_for
from whimbrel.core.errors import TryAgain
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.rgw.pubsub import PubSub, pubsub_client
from whimbrel.eventing.rgw.signing import Signer

Answer = TypeVar("Answer")

FIRST = "first-0"
CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)


@dataclass(frozen=True)
class PulledBucket:
    """All events of `bucket` lie in `subscription` until they are acknowledged."""

    ceph: Ceph
    bucket: str
    topic: str
    subscription: str

    def ask(self, call: Callable[[PubSub], Awaitable[Answer]]) -> Answer:
        return ask(self.ceph, call)

    def keys(self) -> set[str]:
        """Of the objects whose events wait, at most 1000."""
        page = self.ask(lambda pubsub: pubsub.events(self.subscription, most=1000))
        return {event.record["info"]["key"]["name"] for event in page.events}

    def await_all(self, arrived: Callable[[], bool], what: str) -> None:
        """Wait for events. A zone that missed the word of a put looks again after 20 s, or at the next put."""
        looks = itertools.count(1)

        def arrived_or_nudged() -> bool:
            if arrived():
                return True
            if next(looks) % 20 == 0:
                self.put(FIRST)
            return False

        wait_for(arrived_or_nudged, what, 60)

    def put(self, *keys: str) -> None:
        client = self.ceph.s3()
        for key in keys:
            client.put_object(Bucket=self.bucket, Key=key, Body=b"x")


def ask(ceph: Ceph, call: Callable[[PubSub], Awaitable[Answer]], signer: Signer | None = None) -> Answer:
    """One conversation with the PubSub API, as the user who owns the buckets."""
    signer = signer or Signer(ceph.pubsub_endpoint, "us-east-1", CREDENTIALS)

    async def asked() -> Answer:
        async with pubsub_client(S3Settings(), ceph.pubsub_endpoint, signer) as pubsub:
            return await call(pubsub)

    return asyncio.run(asked())


def pulled_bucket(ceph: Ceph) -> PulledBucket:
    """A new bucket, topic, notification and subscription. An event has come through already, of the key FIRST.

    More of that key may come.
    """
    ceph.start_pubsub()
    name = uuid.uuid4().hex[:12]
    made = PulledBucket(ceph, f"pull-{name}", f"topic-{name}", f"subscription-{name}")
    ceph.s3().create_bucket(Bucket=made.bucket)
    _once_synced(lambda: made.ask(lambda pubsub: pubsub.create_topic(made.topic)), "the user in the pubsub zone")
    _once_synced(
        lambda: made.ask(lambda pubsub: pubsub.create_notification(made.bucket, made.topic)),
        "the bucket in the pubsub zone",
    )
    made.ask(lambda pubsub: pubsub.create_subscription(made.subscription, made.topic))
    ceph.announce(made.bucket)
    _first_event(made)
    return made


def _first_event(made: PulledBucket) -> None:
    """The zone begins to look at a new bucket at some moment; what was put before has no event."""

    def arrived() -> bool:
        made.put(FIRST)
        return bool(made.keys())

    wait_for(arrived, "the first event in the pubsub zone", 60)


def _once_synced(call: Callable[[], object], what: str) -> None:
    def done() -> bool:
        try:
            call()
        except TryAgain:
            return False
        return True

    wait_for(done, what, 60)
