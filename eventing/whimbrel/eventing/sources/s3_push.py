"""The source `s3-push`: MinIO's webhooks, and whoever else posts S3 notifications or CloudEvents."""

from __future__ import annotations

from whimbrel.eventing.push.settings import PushSourceSettings
from whimbrel.eventing.push.upstream import PushUpstream


def upstream(settings: PushSourceSettings) -> PushUpstream:
    return PushUpstream(settings, "s3-push")


SETTINGS, UPSTREAM = PushSourceSettings, upstream
