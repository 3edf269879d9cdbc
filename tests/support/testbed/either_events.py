"""Events into a broker of either engine, and what came of them, as the observer within it tells."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from testbed.either_engine import LONGEST_SECONDS, Cluster
from testbed.either_objects import ANSWER_TYPE, BROKER, OBSERVER, classifier, eventing, observing
from testbed.processes import wait_for
from whimbrel.core.cloudevent import Event, binary, json_event, parse

BUCKET = "photos"


@dataclass(frozen=True)
class Events:
    """A broker whose triggers lead to a classifier and to the observer, and whose dead letters the observer gets."""

    observer: httpx.Client
    broker: str  # as pods reach it
    classifier: str

    def put(self, key: str, content: bytes) -> None:
        self.observer.put(f"/{BUCKET}/{key}", content=content).raise_for_status()

    def post(self, event: Event) -> int:
        """The broker's answer, which real ones give once every trigger is done with the event."""
        headers, body = binary(event)
        forward = {**headers, "forward-to": self.broker}
        answer = self.observer.post("/forward", content=body, headers=forward, timeout=LONGEST_SECONDS)
        return answer.status_code

    def seen(self, path: str) -> list[Event]:
        listed = [each for each in self.observer.get("/seen").raise_for_status().json() if each["path"] == path]
        return [event for each in listed for event in parse(each["headers"], base64.b64decode(each["body"]))]

    def results(self, key: str) -> list[Event]:
        return [event for event in self.seen("/results") if json.loads(event.data or b"{}")["object"]["key"] == key]

    def of(self, path: str, event: Event) -> list[Event]:
        return [each for each in self.seen(path) if each.id == event.id]


def answered(id_: str, how: str) -> Event:
    """An event that the observer answers as `how` says, `STATUS` or `STATUS.ATTEMPTS`."""
    return json_event(id=id_, source="/either", type=f"{ANSWER_TYPE}{how}", data={"asked": how})


def created(key: str, size: int) -> Event:
    """What a store's notification becomes: an object was put."""
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": "2026-01-01T00:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, "size": size}},
    }
    given = {"id": f"either-{key}", "source": f"aws:s3.us-east-1.{BUCKET}", "subject": key}
    return json_event(type="com.amazonaws.s3.ObjectCreated:Put", data=record, **given)


@contextmanager
def events(cluster: Cluster, name: str) -> Iterator[Events]:
    """The classifier `name` and all that leads to it and away from it, ready and seen to deliver."""
    token = secrets.token_urlsafe()
    cluster.apply(observing(cluster.image, token))
    cluster.wait_ready("ksvc", OBSERVER)
    inside: dict[str, Any] = cluster.get("ksvc", OBSERVER)["status"]["address"]
    role = f"{cluster.namespace}-addressable-resolver"
    cluster.apply(classifier(cluster.image, name, inside["url"]), *eventing(name, role))
    try:
        for kind, each in [
            ("isvc", name),
            ("broker", BROKER),
            *(("trigger", t) for t in ("objects", "results", "answers")),
        ]:
            cluster.wait_ready(kind, each)
        url, host = cluster.url("ksvc", OBSERVER)
        broker = cluster.get("broker", BROKER)["status"]["address"]["url"]
        headers = {"host": host, "authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            wait_for(lambda: client.get("/seen").is_success, "the observer to be reached", 60)
            assert httpx.get(f"{url}/seen", headers={"host": host}, timeout=60, trust_env=False).status_code == 401
            found = Events(client, broker, name)
            wait_for(lambda: _delivers(found), "the broker to deliver", LONGEST_SECONDS)
            yield found
    finally:
        cluster.kubectl("delete", "clusterrole", role, "--ignore-not-found")


def _delivers(found: Events) -> bool:
    """A trigger that is said to be ready may not be known yet to what delivers."""
    probe = answered("probe", "204")
    found.post(probe)
    return bool(found.of("/answers", probe))
