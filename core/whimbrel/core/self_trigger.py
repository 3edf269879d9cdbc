"""Refuses outputs that would come back as inputs: a bucket that announces what is written to it, without end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.errors import SettingsError
from whimbrel.core.s3 import as_whimbrel_error, is_missing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """One notification of a bucket: which keys it announces the creation of."""

    name: str
    prefix: str = ""
    suffix: str = ""

    def meets(self, prefix: str, suffix: str) -> bool:
        """Whether a key that begins with `prefix` and ends with `suffix` can be one that is announced."""
        return _one_begins_the_other(prefix, self.prefix) and _one_begins_the_other(suffix[::-1], self.suffix[::-1])


def check_not_announced(client: S3Client, bucket: str, outputs: str, *, prefix: str, suffix: str) -> None:
    """Raises SettingsError where the bucket announces what `outputs` would write there. Blocking.

    NotFound where there is no such bucket, Unavailable when the store does not answer. A store that does not tell
    its notifications cannot be checked: the log says so.
    """
    try:
        configuration = client.get_bucket_notification_configuration(Bucket=bucket)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if is_missing(error) or (status >= 500 and status != 501):
            raise as_whimbrel_error(error, f"looking at bucket {bucket!r}") from error
        logger.warning("not known whether bucket %r announces what is written to it: %s", bucket, error)
        return
    except BotoCoreError as error:
        raise as_whimbrel_error(error, f"looking at bucket {bucket!r}") from error
    for announced in creations(configuration):
        if announced.meets(prefix, suffix):
            raise SettingsError(
                f"expected {outputs} where nothing listens, seen keys {prefix}*{suffix} in bucket {bucket!r}, which its"
                f" notification {announced.name!r} announces ({announced.prefix}*{announced.suffix}): they would come"
                " back as inputs; name another bucket or prefix, or filter the notification"
            )


def creations(configuration: Any) -> Iterator[Announced]:
    """The notifications about new objects in S3's notification configuration, of all kinds of targets."""
    if "EventBridgeConfiguration" in configuration:
        yield Announced("EventBridge")
    for kind in ("QueueConfigurations", "TopicConfigurations", "LambdaFunctionConfigurations"):
        for each in configuration.get(kind, []):
            if any("ObjectCreated" in event for event in each.get("Events", [])):
                rules = each.get("Filter", {}).get("Key", {}).get("FilterRules", [])
                values = {str(rule["Name"]).lower(): str(rule["Value"]) for rule in rules}
                yield Announced(str(each.get("Id", "")), values.get("prefix", ""), values.get("suffix", ""))


def _one_begins_the_other(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
