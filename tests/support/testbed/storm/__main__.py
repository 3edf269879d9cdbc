"""`python -m testbed.storm`: the long form of the storm, with its table; ends with 1 when an object is left over."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from testbed.ceph import ABSENT, INSTALLED, ceph_cluster
from testbed.rabbitmq import MISSING, SERVER, rabbitmq_node
from testbed.stores import CREDENTIALS, moto_store
from testbed.storm.lanes import Lane, ceph_lane, sqs_lane
from testbed.storm.storm import Plan, run

SQS_OBJECTS = 300  # moto's queue slows down with its length


@contextmanager
def _sqs(folder: Path) -> Iterator[Lane]:
    os.environ.update(CREDENTIALS)
    with moto_store(folder) as store:
        yield sqs_lane(store)


@contextmanager
def _ceph(folder: Path) -> Iterator[Lane]:
    (folder / "ceph").mkdir()
    (folder / "rabbitmq").mkdir()
    with ceph_cluster(folder / "ceph") as ceph, rabbitmq_node(folder / "rabbitmq") as rabbitmq:
        yield ceph_lane(ceph, rabbitmq)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it started, too
    arguments = _arguments()
    plan = Plan(arguments.objects, seed=arguments.seed, slices=max(10, arguments.objects // 100))
    done = []
    if "sqs" in arguments.lanes:
        done.append(
            _storm("SQS and S3 of moto", _sqs, replace(plan, objects=min(plan.objects, SQS_OBJECTS), slices=10))
        )
    if "ceph" in arguments.lanes:
        missing = [text for text, there in ((ABSENT, INSTALLED), (MISSING, SERVER.exists())) if not there]
        if missing:
            _say(f"left out, RGW and RabbitMQ: {'; '.join(missing)}")
        else:
            done.append(_storm("RGW through RabbitMQ, and in its pull mode", _ceph, plan))
    return 0 if done and all(done) else 1


def _storm(title: str, lane: Callable[[Path], AbstractContextManager[Lane]], plan: Plan) -> bool:
    _say(f"\n{title}: {plan.objects} objects, seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="storm-") as folder, lane(Path(folder)) as made:
        account = run(Path(folder), made, plan, lambda line: _say(f"  {line}"))
    for line in account.table():
        _say(line)
    for name in ("missing", "twice", "unexpected"):
        for bucket, key in getattr(account, name)[:10]:
            _say(f"  {name}: s3://{bucket}/{key}")
    return account.whole


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m testbed.storm")
    parser.add_argument("--objects", type=int, default=10_000, help=f"through RGW; at most {SQS_OBJECTS} through SQS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", nargs="+", choices=("sqs", "ceph"), default=("sqs", "ceph"))
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
