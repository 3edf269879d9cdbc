"""The processes of pods: what they were given is answered before they are ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import wait_for
from testbed.toy_engine import place, toy
from whimbrel.local.control.fleet import Fleet
from whimbrel.local.ingress.replicas import Replica, Replicas
from whimbrel.local.workload import Workload

pytestmark = pytest.mark.anyio

OWNER = {"kind": "Revision", "name": "birds-00001", "uid": "2"}


def pod(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "birds-1", "namespace": "default", "uid": "1", "ownerReferences": [OWNER]}
    return {"metadata": metadata, "spec": spec}


@asynccontextmanager
async def busy(state: Path) -> AsyncIterator[tuple[Fleet, Replicas, Replica]]:
    """A fleet of one process with a request in work, which may take far longer than the fleet to stop."""
    replicas = Replicas("birds-00001")
    found = pod(terminationGracePeriodSeconds=600)
    async with place(state) as here:
        fleet = Fleet(here, lambda: None, 0.05)
        fleet.follow([(found, "Revision")], lambda *_: toy(), lambda _: replicas)
        replica = await replicas.take(60)
        assert replica is not None
        yield fleet, replicas, replica
        await fleet.stop(["Revision"])


async def test_a_pod_that_goes_is_ended_when_its_last_request_is_answered(tmp_path: Path) -> None:
    async with busy(tmp_path) as (fleet, replicas, replica):
        [(*_, process)] = fleet.each()

        fleet.follow([], lambda *_: toy(), lambda _: None)
        with pytest.raises(TimeoutError):  # it waits many times as long as a stop of all would
            await asyncio.wait_for(replica.idle.wait(), 0.5)

        assert replica.leaving and process.running
        assert fleet.ending() == {OWNER["uid"]}
        replicas.give_back(replica)
        await asyncio.to_thread(wait_for, lambda: not fleet.ending(), "the end of the process")
        assert not process.running


async def test_when_all_of_it_stops_no_request_is_waited_for_longer_than_that(tmp_path: Path) -> None:
    async with busy(tmp_path) as (fleet, _, _):
        [(*_, process)] = fleet.each()

        async with asyncio.timeout(60):
            await fleet.stop(["Revision"])

        assert not process.running
        assert fleet.ending() == frozenset()


async def test_a_pod_that_cannot_be_started_keeps_no_other_from_it(tmp_path: Path) -> None:
    odd = {**pod(), "metadata": {**pod()["metadata"], "name": "odd-1", "uid": "3"}}

    def build(found: Any, _: str) -> Workload:
        return toy() if found["metadata"]["name"] == "birds-1" else found["spec"]["containers"]

    async with place(tmp_path) as here:
        fleet = Fleet(here, lambda: None, 0.05)
        fleet.follow([(odd, "Revision"), (pod(), "Revision")], build, lambda _: None)
        assert fleet.seen()["default", "odd-1"].fault == "unexpected KeyError: 'containers'"
        assert [key for key, *_ in fleet.each()] == [("default", "birds-1")]
        await fleet.stop(["Revision"])


async def test_of_pods_that_are_gone_the_latest_logs_are_kept_in_every_namespace(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    kept = [logs / name for name in ("s3.log", *(f"c-1-{number:05}.log" for number in range(100)))]
    gone = [logs / name for name in ("a-1-bcdfg.log", "a-1-bcdfg.log.1", "a-1-bcdfg.team.log")]
    for age, path in enumerate([*reversed(kept), *gone]):
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))

    async with busy(tmp_path) as (fleet, replicas, replica):
        replicas.give_back(replica)
        fleet.follow([], lambda *_: toy(), lambda _: None)
        await asyncio.to_thread(wait_for, lambda: not fleet.ending(), "the end of the process")

    assert [path for path in kept if not path.exists()] == []
    assert [path for path in gone if path.exists()] == []
