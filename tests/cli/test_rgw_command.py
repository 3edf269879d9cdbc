"""`whimbrel rgw` against a real gateway, as a user types it; in this process, for the time that it saves."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed.ceph import Ceph
from testbed.ceph_pull import FIRST, pulled_bucket
from testbed.processes import wait_for
from whimbrel.cli.app import app
from whimbrel.core.errors import InputRefused, NotFound, SettingsError, WhimbrelError

Whimbrel = Callable[..., str]


@pytest.fixture
def whimbrel(ceph: Ceph) -> Whimbrel:
    ceph.start_pubsub()
    return commands({**ceph.settings_environment, "WHIMBREL_RGW_PUBSUB_ENDPOINT": ceph.pubsub_endpoint})


def commands(environment: dict[str, str]) -> Whimbrel:
    """`whimbrel rgw ...` in this process: what it prints, or its error raised."""

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["rgw", *arguments], env=environment)
        if done.exception is not None:
            raise done.exception
        return done.output

    return run


def test_setup_shows_the_change_makes_it_and_then_has_nothing_to_do(
    ceph: Ceph, whimbrel: Whimbrel, tmp_path: Path
) -> None:
    name = uuid.uuid4().hex[:12]
    bucket, topic = f"setup-{name}", f"topic-{name}"
    ceph.s3().create_bucket(Bucket=bucket)
    asked = ("setup", bucket, topic, "--endpoint=http://127.0.0.1:9/", "--prefix=in/", "--tag=kind=bird")
    dry = whimbrel(*asked, "--dry-run")
    assert dry.splitlines() == [
        f"create topic '{topic}': persistent=true, push-endpoint=http://127.0.0.1:9/",
        f"create notification 'whimbrel' of bucket '{bucket}': "
        f"topic {topic}, s3:ObjectCreated:*, key prefix=in/, tags kind=bird",
    ]
    assert "TopicConfigurations" not in ceph.s3().get_bucket_notification_configuration(Bucket=bucket)
    assert whimbrel(*asked) == dry
    assert whimbrel(*asked) == "nothing to change\n"
    changed = whimbrel(*asked, "--no-persistent")
    assert changed.splitlines()[0] == f"topic '{topic}': persistent from true to false"
    password = tmp_path / "password"
    password.write_text("s3cret")
    with pytest.raises(InputRefused, match="RGW takes an endpoint with a password over HTTPS only") as refused:
        whimbrel(*asked, "--user=birds", f"--password-file={password}")
    assert "s3cret" not in str(refused.value)


def test_topics_subscriptions_and_events_of_the_pull_mode(ceph: Ceph, whimbrel: Whimbrel) -> None:
    pulled = pulled_bucket(ceph)
    assert pulled.topic in whimbrel("topics", "ls")
    assert json.loads(whimbrel("subscriptions", "get", pulled.subscription))["topic"] == pulled.topic
    assert "OBJECT_CREATE" in whimbrel("notifications", "ls", pulled.bucket)
    listed = json.loads(whimbrel("events", "ls", pulled.subscription, "-o", "json"))
    assert {event["info"]["key"]["name"] for event in listed} == {FIRST}
    assert f"ObjectCreated:*  {FIRST}" in whimbrel("events", "ls", pulled.subscription)

    def acknowledged() -> bool:
        events = json.loads(whimbrel("events", "ls", pulled.subscription, "-o", "json"))
        if events:
            whimbrel("events", "ack", pulled.subscription, *(event["id"] for event in events))
        return not events

    wait_for(acknowledged, "an empty subscription")
    assert whimbrel("notifications", "delete", pulled.bucket) == f"bucket {pulled.bucket} notifies nothing\n"
    assert whimbrel("subscriptions", "delete", pulled.subscription) == f"deleted subscription {pulled.subscription}\n"
    assert whimbrel("topics", "delete", pulled.topic) == f"deleted topic {pulled.topic}\n"
    with pytest.raises(NotFound, match="create it, or wait until the pubsub zone has synced it"):
        whimbrel("events", "ls", pulled.subscription)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "ftp://h", "http://u:p@h", "http://h/path"])
def test_an_endpoint_that_is_none_is_named(endpoint: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(SettingsError, match="expected the gateway's URL, http://HOST or https://HOST"):
        commands(keys)("topics", "ls", "--endpoint", endpoint)


def test_a_bucket_that_can_be_none_is_named() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with pytest.raises(InputRefused, match="expected a bucket name, seen 'a/b c'"):
        commands(keys)("notifications", "ls", "a/b c", "--endpoint", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--endpoint=ftp://h/",), "expected an endpoint SCHEME://HOST"),
        (("--endpoint=http://u:p@h/",), "give them by --user and --password-file"),
        (("--endpoint=http://h/", "--tag=x"), "expected --tag NAME=VALUE, seen 'x'"),
        (("--endpoint=http://h/", "--event=PUT"), "expected events such as s3:ObjectCreated:*, seen 'PUT'"),
        (("--endpoint=http://h/", "--user=u"), "expected --user and --password-file, or neither"),
    ],
)
def test_what_setup_does_not_understand(arguments: tuple[str, ...], said: str) -> None:
    whimbrel = commands(
        {"WHIMBREL_S3_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    )
    with pytest.raises(WhimbrelError, match=re.escape(said)):
        whimbrel("setup", "bkt", "topic", *arguments)
