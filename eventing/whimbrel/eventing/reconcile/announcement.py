"""The event that stands for an object of which none is known: a record as S3 writes it; pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote_plus

from whimbrel.core.records import AWS
from whimbrel.eventing.reconcile.objects import Listed

_CONFIGURATION: Final = "whimbrel-reconcile"


def record(listed: Listed, region: str, model_digest: str | None = None) -> dict[str, Any]:
    """The record that the store would have sent at the put, with the object's Last-Modified as eventTime.

    Where the store tells whole seconds it is the second's end: the version that is listed now is not older than one
    that was put earlier in it. So its event has the same id however often it is made. With `model_digest` it asks for a
    new look at an object that may have a result already: the id is the model's too, and the time that of the listing,
    so that the new model's answer becomes the latest, and that of a later put stays it.
    """
    ref = listed.ref
    described = {"key": quote_plus(ref.key), "size": ref.size, "eTag": ref.etag}
    made: dict[str, Any] = {
        "eventVersion": "2.1",
        "eventSource": AWS,
        "awsRegion": region,
        "eventTime": _text(_put_at(listed.modified) if model_digest is None else listed.seen_at),
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": _CONFIGURATION,
            "bucket": {"name": ref.bucket, "arn": f"arn:aws:s3:::{ref.bucket}"},
            "object": described if ref.version_id is None else {**described, "versionId": ref.version_id},
        },
    }
    if model_digest is not None:
        identity = hashlib.sha256(f"{ref.version}\x00{model_digest}".encode()).hexdigest()[:32]
        made["responseElements"] = {"x-amz-request-id": _CONFIGURATION, "x-amz-id-2": identity}
    return made


def _put_at(modified: datetime) -> datetime:
    return modified if modified.microsecond else modified.replace(microsecond=999_000)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
