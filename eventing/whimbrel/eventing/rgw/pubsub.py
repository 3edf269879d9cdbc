"""A client of the gateway's PubSub REST API (pull mode): topics, notifications, subscriptions, events and their acks.

https://docs.ceph.com/en/pacific/radosgw/pubsub-module/ (Ceph up to 17; 18 has push only).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from whimbrel.core.errors import InputRefused, NotFound, SettingsError, Unavailable, WhimbrelError
from whimbrel.core.references import check_bucket
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.rgw.pull_documents import (
    Notification,
    Page,
    Subscription,
    Topic,
    parse_notifications,
    parse_page,
    parse_subscription,
    parse_topic,
    parse_topics,
)
from whimbrel.eventing.rgw.signing import Signer

EVENT_KINDS: Final = ("OBJECT_CREATE", "OBJECT_DELETE", "DELETE_MARKER_CREATE")
MAX_PAGE: Final = 1000  # the gateway's own limit
CONNECTIONS: Final = 32

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_MAX_ANSWER_BYTES: Final = 16 << 20  # a page of 1000 events with keys of 1024 bytes is a tenth of it

Parsed = TypeVar("Parsed")


class PubSub:
    """Of the user whose credentials sign. Methods raise NotFound, InputRefused, or Unavailable.

    The zone follows the one that users and buckets are made in: for some seconds after that it answers 403 or 404.
    """

    def __init__(self, http: aiohttp.ClientSession, signer: Signer) -> None:
        self._http = http
        self._signer = signer

    async def topics(self) -> list[Topic]:
        return _parsed(parse_topics, await self._call("GET", "topics", doing="listing topics"))

    async def topic(self, name: str) -> Topic:
        body = await self._call("GET", "topics", checked("topic", name), doing=f"looking at topic {name!r}")
        return _parsed(parse_topic, body)

    async def create_topic(self, name: str) -> None:
        """Does nothing where there is one."""
        await self._call("PUT", "topics", checked("topic", name), doing=f"creating topic {name!r}")

    async def delete_topic(self, name: str) -> None:
        """Events that were not acknowledged stay with the subscriptions."""
        await self._call("DELETE", "topics", checked("topic", name), doing=f"deleting topic {name!r}")

    async def notifications(self, bucket: str) -> list[Notification]:
        check_bucket(bucket)
        body = await self._call(
            "GET", "notifications", "bucket", bucket, doing=f"looking at the notifications of bucket {bucket!r}"
        )
        return _parsed(parse_notifications, body)

    async def create_notification(self, bucket: str, topic: str, events: Sequence[str] = ()) -> None:
        """No events: all kinds."""
        check_bucket(bucket)
        wrong = [event for event in events if event not in EVENT_KINDS]
        if wrong:
            raise InputRefused(f"expected events among {', '.join(EVENT_KINDS)}, seen {wrong[0]!r}")
        query = {"topic": checked("topic", topic)} | ({"events": ",".join(events)} if events else {})
        doing = f"notifying topic {topic!r} of bucket {bucket!r}"
        await self._call("PUT", "notifications", "bucket", bucket, doing=doing, **query)

    async def delete_notification(self, bucket: str, topic: str | None = None) -> None:
        """Of one topic, or all: 16.2 deletes them by topic only."""
        check_bucket(bucket)
        topics = [found.topic for found in await self.notifications(bucket)] if topic is None else [topic]
        for each in topics:
            doing = f"deleting the notifications of bucket {bucket!r} to topic {each!r}"
            await self._call("DELETE", "notifications", "bucket", bucket, doing=doing, topic=checked("topic", each))

    async def subscription(self, name: str) -> Subscription:
        doing = f"looking at subscription {name!r}"
        found = _parsed(
            parse_subscription, await self._call("GET", "subscriptions", checked("subscription", name), doing=doing)
        )
        if not found.name:
            raise NotFound(f"{doing}: there is none; create it with 'whimbrel rgw subscriptions create'")
        return found

    async def create_subscription(self, name: str, topic: str) -> None:
        doing = f"creating subscription {name!r} of topic {topic!r}"
        path = ("subscriptions", checked("subscription", name))
        await self._call("PUT", *path, doing=doing, topic=checked("topic", topic))

    async def delete_subscription(self, name: str) -> None:
        topic = (await self.subscription(name)).topic
        path = ("subscriptions", checked("subscription", name))
        await self._call("DELETE", *path, doing=f"deleting subscription {name!r}", topic=topic)

    async def events(self, subscription: str, *, marker: str | None = None, most: int = 100) -> Page:
        """The events that nobody acknowledged, from the oldest, or from after `marker`, on."""
        query = {"events": "", "max-entries": str(most)} | ({} if marker is None else {"marker": marker})
        doing = f"listing the events of subscription {subscription!r}"
        path = ("subscriptions", checked("subscription", subscription))
        return _parsed(parse_page, await self._call("GET", *path, doing=doing, **query))

    async def ack(self, subscription: str, event_id: str) -> None:
        """The gateway answers 200 for ids that it does not know too: safe to repeat."""
        path = ("subscriptions", checked("subscription", subscription))
        query = {"ack": "", "event-id": event_id}
        await self._call("POST", *path, doing=f"acknowledging event {event_id!r}", **query)

    async def _call(self, method: str, *path: str, doing: str, **query: str) -> bytes:
        # Signing may renew credentials over the network, which blocks.
        signed = await asyncio.to_thread(self._signer.sign, method, path, query)
        url = URL(signed.url, encoded=True)
        try:
            async with self._http.request(method, url, headers=signed.headers, allow_redirects=False) as answer:
                body = await _whole(answer, doing)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{doing}: the gateway does not answer ({type(error).__name__} {error})") from error
        if 200 <= answer.status < 300:
            return body
        raise _refusal(answer.status, body, doing)


@asynccontextmanager
async def pubsub_client(settings: S3Settings, endpoint: str, signer: Signer | None = None) -> AsyncIterator[PubSub]:
    """With the region, the timeouts and the certificates of the settings, and botocore's credentials."""
    if signer is None:
        signer = await asyncio.to_thread(Signer, endpoint, settings.s3_region)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=settings.s3_connect_timeout_seconds, sock_read=settings.s3_read_timeout_seconds
    )
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=_certificates(settings))
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"accept-encoding": "identity"},
    ) as http:
        yield PubSub(http, signer)


def checked(what: str, name: str) -> str:
    """Raises InputRefused for a name that cannot stand in a path."""
    if not _NAME.fullmatch(name):
        raise InputRefused(f"expected a {what} name of letters, digits, '.', '_' and '-', seen {name!r}")
    return name


async def _whole(answer: aiohttp.ClientResponse, doing: str) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise Unavailable(f"{doing}: expected at most {_MAX_ANSWER_BYTES} bytes from the gateway, seen more")
    return bytes(body)


def _parsed(parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    """What the gateway says wrongly is not the caller's fault: Unavailable, and tried again."""
    try:
        return parse(body)
    except InputRefused as error:
        raise Unavailable(f"the gateway's PubSub API answered what it should not: {error}") from None


def _refusal(status: int, body: bytes, doing: str) -> WhimbrelError:
    found = re.search(rb'"Code":"(\w+)"|<Code>(\w+)</Code>', body)
    code = (found[1] or found[2]).decode() if found else ""
    said = f"{doing}: the gateway answered {status} {code}".rstrip()
    # What a subscription that does not exist is asked for is an InvalidArgument.
    if status == 404 or code == "InvalidArgument":
        return NotFound(f"{said}; create it, or wait until the pubsub zone has synced it")
    if status in (401, 403):
        return Unavailable(f"{said}; check credentials and clock, or wait until the pubsub zone has synced the user")
    if status == 405:
        return SettingsError(f"{said}; expected the endpoint of a pubsub zone (Ceph 14 to 17)")
    return InputRefused(said) if 400 <= status < 500 else Unavailable(said)


def _certificates(settings: S3Settings) -> ssl.SSLContext | bool:
    if settings.s3_ca_bundle is None:
        return settings.s3_verify_tls
    return ssl.create_default_context(cafile=settings.s3_ca_bundle)
