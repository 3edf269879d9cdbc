"""All checks over one snapshot, in the order in which a cluster is built up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from whimbrel.kube.doctor import facilities, platform, workloads
from whimbrel.kube.doctor.finding import Finding, ok
from whimbrel.kube.doctor.snapshot import Snapshot

CHECKS: tuple[Callable[[Snapshot], Iterator[Finding]], ...] = (
    platform.installations,
    platform.networking,
    platform.broker_class,
    facilities.webhooks,
    facilities.addressable,
    facilities.autoscaling,
    facilities.devices,
    workloads.settings,
    workloads.flags,
    workloads.images,
    workloads.readiness,
)


def judge(found: Snapshot) -> list[Finding]:
    return [ok("API server", found.version), *(finding for check in CHECKS for finding in check(found))]
