"""Whose batch computes next: each model's in turn, of one model by age, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from whimbrel.predictors.turns import Turns


class Line:
    """Who had a turn, in order; each keeps it until told."""

    def __init__(self) -> None:
        self.turns, self.had, self.next = Turns(), list[float](), asyncio.Event()

    def wants(self, since: float, model: str = "m") -> asyncio.Task[None]:
        return asyncio.create_task(self._wait(since, model))

    async def _wait(self, since: float, model: str) -> None:
        async with self.turns.turn(model, since):
            self.had.append(since)
            await self.next.wait()


@pytest.mark.anyio
async def test_the_turn_goes_to_who_waits_longest() -> None:
    line = Line()
    tasks = []
    for since in (5.0, 3.0, 4.0, 1.0, 3.0):
        tasks.append(line.wants(since))
        await asyncio.sleep(0)
    assert line.had == [5.0]
    line.next.set()
    await asyncio.gather(*tasks)
    assert line.had == [5.0, 1.0, 3.0, 3.0, 4.0]


@pytest.mark.anyio
async def test_models_take_turns_however_long_one_has_waited() -> None:
    line = Line()
    tasks = []
    for since, model in ((1.0, "a"), (2.0, "a"), (3.0, "a"), (4.0, "a"), (8.0, "b"), (7.0, "b"), (9.0, "c")):
        tasks.append(line.wants(since, model))
        await asyncio.sleep(0)
    line.next.set()
    await asyncio.gather(*tasks)
    assert line.had == [1.0, 2.0, 7.0, 9.0, 3.0, 8.0, 4.0]


@pytest.mark.anyio
async def test_who_is_cancelled_gets_no_turn_and_keeps_none() -> None:
    line = Line()
    first, second, third = line.wants(1.0), line.wants(2.0), line.wants(3.0)
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.wait([first, second])
    line.next.set()
    await third
    assert line.had == [1.0, 3.0]
    async with line.turns.turn("m", 4.0):
        assert line.had == [1.0, 3.0]


@pytest.mark.anyio
async def test_a_turn_given_to_who_is_cancelled_in_the_same_moment_is_passed_on() -> None:
    line = Line()
    line.next.set()
    async with line.turns.turn("m", 1.0):
        second, third = line.wants(2.0), line.wants(3.0)
        await asyncio.sleep(0)
    second.cancel()  # it has been given the turn, and does not know yet
    await asyncio.wait([second, third])
    assert second.cancelled()
    assert line.had == [3.0]
    async with line.turns.turn("m", 4.0):
        assert line.had == [3.0]
