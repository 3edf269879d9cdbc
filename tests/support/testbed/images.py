"""Images whose answer by the null predictor is known, and object events about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import BytesIO
from urllib.parse import quote_plus

from PIL import Image

from whimbrel.core.cloudevent import Event
from whimbrel.core.records import parse_record


def png(first_pixel: int, side: int = 8) -> bytes:
    """The null predictor of 10 classes answers `class-N`, N the last digit of `first_pixel`."""
    target = BytesIO()
    Image.new("RGB", (side, side), (first_pixel, 100, 100)).save(target, "PNG")
    return target.getvalue()


def object_event(
    bucket: str, key: str, *, name: str = "ObjectCreated:Put", etag: str | None = None, size: int | None = None
) -> Event:
    """The CloudEvent that our sources make of an AWS-shaped record."""
    described: dict[str, object] = {"key": quote_plus(key), "sequencer": "0055AED6DCD90281E5"}
    described |= {"eTag": etag} if etag is not None else {}
    described |= {"size": size} if size is not None else {}
    record = {
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": datetime.now(UTC).isoformat(),
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": described},
    }
    return parse_record(json.loads(json.dumps(record))).cloudevent()
