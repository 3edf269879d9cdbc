"""The source `rgw-push`: topics of Ceph's gateway post to it, as plain S3 records or with `cloudevents=true`."""

from __future__ import annotations

from whimbrel.eventing.push.settings import PushSourceSettings
from whimbrel.eventing.push.upstream import PushUpstream


def upstream(settings: PushSourceSettings) -> PushUpstream:
    return PushUpstream(settings, "rgw-push")


SETTINGS, UPSTREAM = PushSourceSettings, upstream
