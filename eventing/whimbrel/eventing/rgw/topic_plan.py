"""What a topic and a bucket's notification are to be, and what differs from what there is; no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from whimbrel.core.errors import InputRefused
from whimbrel.core.references import check_bucket

ENDPOINT, PERSISTENT, OPAQUE = "push-endpoint", "persistent", "OpaqueData"

# What a topic can be told besides: https://docs.ceph.com/en/latest/radosgw/notifications/#create-a-topic
OTHER_ATTRIBUTES: Final = (
    *("verify-ssl", "cloudevents", "amqp-exchange", "amqp-ack-level", "kafka-ack-level", "use-ssl", "ca-location"),
    *("mechanism", "user-name", "password", "time_to_live", "max_retries", "retry_sleep_duration"),
)
EVENTS: Final = re.compile(r"s3:Object(Created|Removed|Lifecycle|Synced|Restore|Tagging)(:[A-Za-z]+)*(:\*|:[A-Za-z]+)")

_DEFAULTS: Final = {PERSISTENT: "false", "verify-ssl": "true", "cloudevents": "false", "use-ssl": "false"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_SCHEMES: Final = ("http", "https", "amqp", "amqps", "kafka")
_ARGUMENT: Final = re.compile("&(?=(?:{})=)".format("|".join((ENDPOINT, PERSISTENT, OPAQUE, *OTHER_ATTRIBUTES))))


@dataclass(frozen=True, slots=True)
class TopicWish:
    """`attributes` are those of SNS CreateTopic, in RGW's words: the endpoint, persistence, opaque data and others."""

    name: str
    attributes: Mapping[str, str]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputRefused(f"expected a topic name of letters, digits, '_' and '-', seen {self.name!r}")
        endpoint = urlsplit(self.attributes.get(ENDPOINT, ""))
        if endpoint.scheme not in _SCHEMES or not endpoint.hostname:
            raise InputRefused(
                f"expected an endpoint SCHEME://HOST of {', '.join(_SCHEMES)}, seen {endpoint.geturl()!r}"
            )
        unknown = [name for name in self.attributes if name not in (ENDPOINT, PERSISTENT, OPAQUE, *OTHER_ATTRIBUTES)]
        if unknown:
            raise InputRefused(f"expected attributes among {', '.join(OTHER_ATTRIBUTES)}, seen {unknown[0]!r}")


@dataclass(frozen=True, slots=True)
class NotificationWish:
    """Which events of `bucket` go to the topic; every filter that is given has to match."""

    bucket: str
    id: str
    events: Sequence[str] = ("s3:ObjectCreated:*",)
    prefix: str = ""
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        wrong = [event for event in self.events if not EVENTS.fullmatch(event)]
        if wrong or not self.events:
            raise InputRefused(f"expected events such as s3:ObjectCreated:*, seen {(wrong or ['none'])[0]!r}")

    def configuration(self, arn: str) -> dict[str, Any]:
        """A TopicConfiguration, with RGW's filters beside S3's own."""
        filters = {
            "Key": {name: value for name, value in (("prefix", self.prefix), ("suffix", self.suffix)) if value},
            "Metadata": {_metadata_header(name): value for name, value in self.metadata.items()},
            "Tags": dict(self.tags),
        }
        rules = {kind: {"FilterRules": _rules(given)} for kind, given in filters.items() if given}
        wished = {"Id": self.id, "TopicArn": arn, "Events": list(self.events)}
        return wished | ({"Filter": rules} if rules else {})


def topic_changes(found: Mapping[str, str] | None, wish: TopicWish) -> list[str]:
    """One line a difference; none where the topic is as it should be."""
    if found is None:
        settings = ", ".join(f"{name}={shown(name, value)}" for name, value in sorted(wish.attributes.items()))
        return [f"create topic {wish.name!r}: {settings}"]
    names = sorted({*found, *wish.attributes})
    changed = [name for name in names if _meant(name, found) != _meant(name, wish.attributes)]
    return [
        f"topic {wish.name!r}: {name} from {shown(name, found.get(name))} to {shown(name, wish.attributes.get(name))}"
        for name in changed
    ]


def notification_changes(found: Sequence[Mapping[str, Any]], wish: NotificationWish, arn: str) -> list[str]:
    wished = wish.configuration(arn)
    present = next((entry for entry in found if entry.get("Id") == wish.id), None)
    if present is None:
        return [f"create notification {wish.id!r} of bucket {wish.bucket!r}: {_described(wished)}"]
    if _comparable(present) == _comparable(wished):
        return []
    which = f"notification {wish.id!r} of bucket {wish.bucket!r}"
    return [f"{which}: from {_described(present)} to {_described(wished)}"]


def topic_attributes(answer: Mapping[str, str]) -> dict[str, str]:
    """The attributes of GetTopicAttributes as CreateTopic takes them. RGW keeps the others as they were posted."""
    try:
        endpoint = json.loads(answer.get("EndPoint", "{}"))
    except ValueError:
        raise InputRefused("expected JSON as EndPoint of a topic") from None
    arguments = dict(part.partition("=")[::2] for part in _ARGUMENT.split(str(endpoint.get("EndpointArgs", "")))[1:])
    others = {name: value for name, value in arguments.items() if name in OTHER_ATTRIBUTES}
    attributes = {
        ENDPOINT: str(endpoint.get("EndpointAddress", "")),
        PERSISTENT: str(endpoint.get("Persistent", "false")).lower(),
        OPAQUE: answer.get("OpaqueData", ""),
    }
    return {name: value for name, value in {**others, **attributes}.items() if value}


def name_in(arn: object) -> str:
    """The name of the topic that an ARN means."""
    return str(arn).rpartition(":")[2]


def shown(name: str, value: str | None) -> str:
    """A value as it may be printed: without the secrets of an endpoint."""
    if not value:
        return "nothing"
    if name == "password":
        return "***"
    parts = urlsplit(value) if name == ENDPOINT else None
    if parts is None or "@" not in parts.netloc:
        return value
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def _meant(name: str, attributes: Mapping[str, str]) -> str:
    """Absent and empty are the default."""
    return attributes.get(name) or _DEFAULTS.get(name, "")


def _metadata_header(name: str) -> str:
    return name.lower() if name.lower().startswith("x-amz-meta-") else f"x-amz-meta-{name.lower()}"


def _rules(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in given.items()]


def _comparable(configuration: Mapping[str, Any]) -> tuple[Any, ...]:
    filters = configuration.get("Filter", {})
    rules = {
        (kind, rule["Name"].lower() if kind == "Key" else rule["Name"], rule["Value"])
        for kind, given in filters.items()
        for rule in given.get("FilterRules", [])
    }
    return configuration.get("TopicArn"), frozenset(configuration.get("Events", [])), frozenset(rules)


def _described(configuration: Mapping[str, Any]) -> str:
    _, events, rules = _comparable(configuration)
    filters = [f"{kind.lower()} {name}={value}" for kind, name, value in sorted(rules)]
    return ", ".join([f"topic {name_in(configuration['TopicArn'])}", *sorted(events), *filters])
