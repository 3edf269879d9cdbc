"""`whimbrel rgw setup`: a topic of Ceph's gateway and a bucket's notification, made or changed to what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit, urlunsplit

import typer

from whimbrel.cli.console import say
from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.core.settings import S3Settings, load


def setup(
    bucket: Annotated[str, typer.Argument(help="bucket whose events are sent")],
    topic: Annotated[str, typer.Argument(help="name of the topic, created or changed")],
    endpoint: Annotated[
        str, typer.Option(help="where to: http[s]://HOST of the push source, amqp[s]://..., kafka://...")
    ],
    notification: Annotated[str, typer.Option("--id", help="name of the bucket's notification")] = "whimbrel",
    persistent: Annotated[
        bool, typer.Option(help="queue events in the gateway until they are accepted; without, one attempt a put")
    ] = True,
    event: Annotated[list[str] | None, typer.Option(help="kinds of events (default: s3:ObjectCreated:*)")] = None,
    prefix: Annotated[str, typer.Option(help="only keys that begin so")] = "",
    suffix: Annotated[str, typer.Option(help="only keys that end so")] = "",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="only objects with this x-amz-meta-NAME; repeatable")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="only objects with this tag; repeatable")
    ] = None,
    opaque_data: Annotated[str, typer.Option(help="text that every record carries")] = "",
    cloudevents: Annotated[bool, typer.Option(help="as CloudEvents (16 ignores it)")] = False,
    verify_tls: Annotated[bool, typer.Option(help="verify the endpoint's certificate")] = True,
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="RGW's others: amqp-exchange, amqp-ack-level, max_retries, ..."),
    ] = None,
    user: Annotated[str, typer.Option(help="user of the endpoint's basic authentication")] = "",
    password_file: Annotated[Path | None, typer.Option(help="file with that user's password")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change, and change nothing")] = False,
) -> None:
    """Let a bucket of Ceph's gateway push its events to an endpoint; safe to repeat.

    The gateway is WHIMBREL_S3_ENDPOINT, the credentials AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    """
    from whimbrel.eventing.rgw.setup import Topics
    from whimbrel.eventing.rgw.topic_plan import ENDPOINT, OPAQUE, PERSISTENT, NotificationWish, TopicWish

    attributes = {
        ENDPOINT: _with_credentials(endpoint, user, password_file),
        PERSISTENT: str(persistent).lower(),
        OPAQUE: opaque_data,
        "cloudevents": str(cloudevents).lower(),
        "verify-ssl": "" if verify_tls else "false",
        **_pairs(attribute, "--attribute"),
    }
    given = {name: value for name, value in attributes.items() if value and (name, value) != ("cloudevents", "false")}
    wish = NotificationWish(
        bucket=bucket,
        id=notification,
        events=event or ("s3:ObjectCreated:*",),
        prefix=prefix,
        suffix=suffix,
        metadata=_pairs(metadata, "--metadata"),
        tags=_pairs(tag, "--tag"),
    )
    topics = Topics(load(S3Settings, [], program="whimbrel rgw setup"))
    plan = topics.plan(TopicWish(topic, given), wish)
    for line in plan.changes or ["nothing to change"]:
        say(line)
    if plan.others:
        say(f"bucket {bucket!r} has other notifications too, which may send an event twice: {', '.join(plan.others)}")
    if not dry_run:
        topics.apply(plan)


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given or ()]
    wrong = [name for name, equals, _ in pairs if not (name and equals)]
    if wrong:
        raise InputRefused(f"expected {option} NAME=VALUE, seen {wrong[0]!r}")
    return {name: value for name, _, value in pairs}


def _with_credentials(endpoint: str, user: str, password_file: Path | None) -> str:
    parts = urlsplit(endpoint)
    if "@" in parts.netloc:
        raise SettingsError("expected an endpoint without credentials; give them by --user and --password-file")
    if bool(user) != bool(password_file):
        raise SettingsError("expected --user and --password-file, or neither; seen one of them")
    if password_file is None:
        return endpoint
    try:
        password = password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--password-file: cannot read {password_file} ({error})") from None
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"))
