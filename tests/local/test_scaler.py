"""The autoscaler's loop over places that are really taken: what it wants of each revision, at times that are given."""

from __future__ import annotations

import asyncio

import pytest

from whimbrel.local.autoscaling import Scaling
from whimbrel.local.control.outcome import RevisionPlan
from whimbrel.local.control.scaler import Scaler
from whimbrel.local.ingress.replicas import Overflow
from whimbrel.local.processes import Address

pytestmark = pytest.mark.anyio

KEY = ("default", "one-00001")
PLAN = RevisionPlan(KEY, Scaling(target=10, stable_seconds=6), None)


def scaler(*plans: RevisionPlan, max_waiting: int = 100) -> tuple[Scaler, list[int]]:
    """With the number of times that it said that something has changed."""
    told: list[int] = []
    made = Scaler(lambda: told.append(1), max_waiting=max_waiting)
    made.follow(plans)
    return made, told


async def test_a_request_at_zero_wants_a_process_at_once_and_gets_its_place() -> None:
    found, told = scaler(PLAN)
    replicas = found.replicas(KEY)
    assert found.wanted == {KEY: 0}

    waiting = asyncio.create_task(replicas.take(20))
    await asyncio.sleep(0)
    assert found.wanted == {KEY: 1}
    assert told

    replica = replicas.add("pod", Address(1))
    assert await waiting is replica


async def test_a_revision_that_has_processes_keeps_them_for_a_window_and_then_goes_to_zero() -> None:
    found, _ = scaler()
    found.replicas(KEY).add("pod", Address(1))
    found.follow([PLAN])

    wanted = []
    for second in range(8):
        found.tick(100.0 + second)
        wanted.append(found.wanted[KEY])

    assert wanted == [1, 1, 1, 1, 1, 1, 0, 0]


async def test_load_asks_for_more_and_what_came_between_two_looks_counts() -> None:
    found, _ = scaler()
    replicas = found.replicas(KEY)
    replicas.add("pod", Address(1))
    found.follow([PLAN])
    found.tick(100.0)
    for _ in range(45):
        replicas.arrive(100.0)
    for _ in range(45):
        replicas.leave(101.0)

    found.tick(101.0)

    assert found.wanted[KEY] > 1
    assert replicas.busy == 0


async def test_a_revision_of_a_fixed_number_is_not_decided_on() -> None:
    found, _ = scaler(RevisionPlan(KEY, Scaling(), 1))
    found.tick(1.0)
    assert found.wanted == {}
    found.follow([])
    assert found.replicas(KEY).ready == 0


async def test_more_than_may_wait_are_refused_and_a_place_given_up_goes_to_the_next() -> None:
    found, _ = scaler(PLAN, max_waiting=2)
    replicas = found.replicas(KEY)
    first, second = (asyncio.create_task(replicas.take(20)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(Overflow):
        await replicas.take(20)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    replica = replicas.add("pod", Address(1))

    assert await second is replica
    assert replica.in_flight == 1
    assert await replicas.take(0.01) is replica
