"""A short storm: each process of ours is killed at least once, the sinks misbehave, the store is away, nothing is lost.

`make storm` runs the long one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from testbed.ceph import Ceph
from testbed.rabbitmq import RabbitMq
from testbed.stores import Store
from testbed.storm.lanes import Lane, ceph_lane, sqs_lane
from testbed.storm.storm import Account, Plan, run

# One slice for each process, so that each is killed with something in flight; a twentieth of the objects is broken.
SHORT = Plan(42, slices=6, broken=50, calm=0.0, outage_seconds=2.0, hang_seconds=2.0, settle_seconds=150.0)


def weathered(folder: Path, lane: Lane, plan: Plan) -> Account:
    account = run(folder, lane, plan)
    assert account.whole, "\n".join([*account.table(), *map(str, account.missing + account.twice + account.unexpected)])
    return account


def test_through_sqs(store: Store, tmp_path: Path) -> None:
    account = weathered(tmp_path, sqs_lane(store, lease_seconds=3), SHORT)
    assert (account.results, account.dead_letters) == (40, 2)
    assert (len(account.kills), account.outage_seconds, account.announced) == (6, 2.0, 0)


def test_through_rabbitmq_and_rgws_pull_mode(ceph: Ceph, rabbitmq: RabbitMq, tmp_path: Path) -> None:
    account = weathered(tmp_path, ceph_lane(ceph, rabbitmq, kills_gateway=False), replace(SHORT, slices=7))
    assert (account.results, account.dead_letters) == (40, 2)
    assert (len(account.kills), account.outage_seconds) == (7, 2.0)
