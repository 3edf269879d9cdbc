"""A persistent topic of the real Ceph with events that wait for a receiver."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.activator import activator
from testbed.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.rgw.setup import Topics
from whimbrel.eventing.rgw.topic_plan import ENDPOINT, PERSISTENT, NotificationWish, TopicWish
from whimbrel.local.state import free_port

KEYS = ["plain.png", 'in/a b+ü&%41 "q".jpg', "in/..hidden", "a+b c.png", "日本/鳥.png"]


@dataclass(frozen=True)
class Queued:
    """Events of `keys` that wait in the gateway, for a receiver at `port`, which an activator stands before."""

    port: int
    keys: list[str]


def topics_of(ceph: Ceph) -> Topics:
    return Topics(S3Settings(s3_endpoint=ceph.endpoint), (ACCESS_KEY, SECRET_KEY))


def notify(
    topics: Topics, bucket: str, endpoint: str, attributes: Mapping[str, str], wish: Mapping[str, Any] | None = None
) -> None:
    """Push a bucket's events; nothing is left to change then."""
    topic = TopicWish(f"topic-of-{bucket}", {ENDPOINT: endpoint, **attributes})
    notification = NotificationWish(bucket=bucket, id="whimbrel", **(wish or {}))
    topics.apply(topics.plan(topic, notification))
    assert topics.plan(topic, notification).changes == ()


@contextmanager
def queued_events(ceph: Ceph) -> Iterator[Queued]:
    """Put before and after a kill -9 of the gateway, which delivers them from up to 30 s after its start on."""
    queued, bucket = Queued(free_port(), [*KEYS, *(f"in/{n}.png" for n in range(20))]), f"push-{uuid.uuid4().hex[:12]}"
    client = ceph.s3()
    client.create_bucket(Bucket=bucket)
    with activator(queued.port) as open_port:
        notify(topics_of(ceph), bucket, f"http://127.0.0.1:{open_port}", {PERSISTENT: "true"})
        for key in queued.keys[:15]:
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
        ceph.restart_gateway()
        for key in queued.keys[15:]:
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
        yield queued
