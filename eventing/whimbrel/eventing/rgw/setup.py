"""Makes a topic and a bucket's notification what they should be, over RGW's SNS and S3 APIs; safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import boto3
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

from whimbrel.core.errors import InputRefused, NotFound, SettingsError, Unavailable, WhimbrelError
from whimbrel.core.s3 import client_config, error_code
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.rgw.topic_plan import (
    NotificationWish,
    TopicWish,
    name_in,
    notification_changes,
    topic_attributes,
    topic_changes,
)

MODELS: Final = Path(__file__).parent / "botocore_models"  # the filters that RGW's notifications have beside S3's
_ABSENT: Final = ("NoSuchEntity", "NotFound", "NoSuchKey")


@dataclass(frozen=True, slots=True)
class Plan:
    """`changes` has a line for each difference; none: everything is as wished. `others` are the bucket's other ones."""

    topic: TopicWish
    notification: NotificationWish
    changes: tuple[str, ...]
    others: tuple[str, ...]


class Topics:
    """One gateway. Blocking. Methods raise NotFound, InputRefused, SettingsError or Unavailable."""

    def __init__(self, settings: S3Settings, credentials: tuple[str, str] | None = None) -> None:
        if settings.s3_endpoint is None:
            raise SettingsError("expected the URL of the gateway, seen none; set WHIMBREL_S3_ENDPOINT")
        session = botocore.session.get_session()
        loader = session.get_component("data_loader")
        loader.search_paths.append(str(MODELS))
        loader.extras_types.append("rgw")
        access_key, secret_key = credentials or (None, None)
        common: dict[str, Any] = {
            "endpoint_url": settings.s3_endpoint,
            "region_name": settings.s3_region,
            "verify": settings.s3_ca_bundle or settings.s3_verify_tls,
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
            "config": client_config(settings, 4),
        }
        clients = boto3.Session(botocore_session=session)
        self._s3 = clients.client("s3", **common)
        self._sns: Any = clients.client("sns", **common)
        self._sns.meta.events.register("before-call.sns", _spaces_as_percent)

    def plan(self, topic: TopicWish, notification: NotificationWish) -> Plan:
        found = self._notifications(notification.bucket)
        try:
            arn = self._arn(topic.name)
            differences = topic_changes(self._attributes(arn), topic)
        except _Concealed:
            known = [str(entry["TopicArn"]) for entry in found if name_in(entry["TopicArn"]) == topic.name]
            arn = known[0] if known else None
            differences = [
                f"topic {topic.name!r}: put again; over HTTP, RGW conceals topics where one holds a password"
            ]
        changes = differences + notification_changes(found, notification, arn or topic.name)
        if changes and changes == differences:
            changes.append(f"notification {notification.id!r} of bucket {notification.bucket!r}: put again, with these")
        others = tuple(str(entry.get("Id")) for entry in found if entry.get("Id") != notification.id)
        return Plan(topic, notification, tuple(changes), others)

    def apply(self, plan: Plan) -> None:
        """The notification is put again where the topic changed: RGW copies the topic's settings into it.

        Putting one leaves the bucket's others as they are: unlike S3, RGW adds, or replaces, by Id.
        """
        if not plan.changes:
            return
        bucket = plan.notification.bucket
        created = _asked(
            f"creating topic {plan.topic.name!r}",
            self._sns.create_topic, Name=plan.topic.name, Attributes=dict(plan.topic.attributes),
        )  # fmt: skip
        configuration = plan.notification.configuration(created["TopicArn"])
        _asked(
            f"putting the notification of bucket {bucket!r}",
            self._s3.put_bucket_notification_configuration,
            Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [configuration]},
        )  # fmt: skip

    def _arn(self, name: str) -> str | None:
        """RGW's ARNs hold the zonegroup, which only a listing tells."""
        token = ""
        while True:
            asked = {"NextToken": token} if token else {}
            page = _asked("listing topics", self._sns.list_topics, **asked)
            for topic in page.get("Topics", []):
                if name_in(topic["TopicArn"]) == name:
                    return str(topic["TopicArn"])
            token = page.get("NextToken", "")
            if not token:
                return None

    def _attributes(self, arn: str | None) -> dict[str, str] | None:
        if arn is None:
            return None
        try:
            answer = _asked(f"looking at topic {arn}", self._sns.get_topic_attributes, TopicArn=arn)
        except NotFound:
            return None
        return topic_attributes(answer["Attributes"])

    def _notifications(self, bucket: str) -> list[dict[str, Any]]:
        doing = f"looking at the notifications of bucket {bucket!r}"
        answer = _asked(doing, self._s3.get_bucket_notification_configuration, Bucket=bucket)
        found: list[dict[str, Any]] = answer.get("TopicConfigurations", [])
        return found


class _Concealed(Unavailable):
    """The gateway tells of a topic whose endpoint holds a password over HTTPS only, and so of all of its user's."""


def _asked(doing: str, call: Any, **parameters: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = call(**parameters)
    except ClientError as error:
        raise _refusal(error, doing) from error
    except NoCredentialsError as error:
        raise SettingsError(
            f"{doing}: expected credentials, seen none; set AWS_ACCESS_KEY_ID and its secret"
        ) from error
    except ParamValidationError as error:
        raise InputRefused(f"{doing}: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"{doing}: the gateway does not answer ({error})") from error
    return answer


def _refusal(error: ClientError, doing: str) -> WhimbrelError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error_code(error) or str(error.response.get("Code", ""))  # where RGW's SNS API has it
    said = f"{doing}: the gateway answered {status} {code}"
    if code == "NoSuchBucket":
        return NotFound(f"{said}; create the bucket first")
    if status == 404 or code in _ABSENT:
        return NotFound(said)
    if code == "AccessDenied":
        return _Concealed(f"{said}; check the credentials")
    if code == "InvalidInput":
        return InputRefused(f"{said}; RGW takes an endpoint with a password over HTTPS only")
    return InputRefused(said) if status in (400, 405) else Unavailable(f"{said}; check credentials and clock")


def _spaces_as_percent(params: dict[str, Any], **_: Any) -> None:
    """RGW 16 takes the `+` of a form for a plus sign."""
    params["body"] = urlencode(params["body"], quote_via=quote).encode()
