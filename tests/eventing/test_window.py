"""The window in flight: within its bounds whatever the sink answers, narrower under overload, wider when it is fast."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.eventing.key_order import KeyOrder
from whimbrel.eventing.window import Limit, Window


@dataclass(frozen=True)
class Answer:
    overload: bool
    started_before: float
    full: bool


answers = st.lists(st.builds(Answer, st.booleans(), st.floats(0, 100), st.booleans()), max_size=200)


@given(st.integers(1, 1000), answers)
def test_the_window_stays_within_its_bounds(most: int, given_answers: list[Answer]) -> None:
    limit = Limit(most, slow_seconds=10)
    for number, answer in enumerate(given_answers):
        before, now = limit.size, float(number)
        if answer.overload:
            limit.overloaded(now - answer.started_before, now)
            assert before // 2 <= limit.size <= before
        else:
            limit.answered(now - answer.started_before, now, full=answer.full)
            assert before <= limit.size <= before + 1
        assert 1 <= limit.size <= most


def test_an_overloaded_sink_gets_half_once_for_all_that_was_in_flight() -> None:
    limit = Limit(32, slow_seconds=10)
    for _ in range(32):
        limit.overloaded(started=1.0, now=2.0)
    assert limit.size == 16
    limit.overloaded(started=2.5, now=3.0)
    assert limit.size == 8


def test_a_fast_sink_gets_more_a_slow_or_idle_one_does_not() -> None:
    limit = Limit(1000, slow_seconds=10)
    for now in range(100):
        limit.answered(now, now + 11.0, full=True)
        limit.answered(now, now + 0.1, full=False)
    assert limit.size == 32
    for now in range(100):
        limit.answered(now, now + 0.1, full=True)
    assert limit.size == 132


def test_after_an_overload_it_grows_by_one_a_window() -> None:
    limit = Limit(32, slow_seconds=10)
    limit.overloaded(1.0, 2.0)
    for _ in range(17):
        limit.answered(3.0, 3.1, full=True)
    assert limit.size == 17


@pytest.mark.anyio
async def test_places_are_given_in_the_order_of_asking_and_the_stop_sends_the_rest_away() -> None:
    stopping, order = asyncio.Event(), list[int]()
    window = Window(Limit(1, slow_seconds=10), stopping)

    async def take(number: int) -> bool:
        taken = await window.take()
        if taken:
            order.append(number)
        return taken

    assert await take(0)
    waiting = [asyncio.create_task(take(number)) for number in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # it gives its place up
    window.leave()
    assert await waiting[1]
    stopping.set()
    assert await asyncio.gather(*waiting[2:]) == [False, False]
    assert order == [0, 2]
    window.leave()
    assert not await take(5)


@pytest.mark.anyio
async def test_a_key_has_one_turn_at_a_time_in_the_order_of_joining() -> None:
    stopping = asyncio.Event()
    keys = KeyOrder(stopping)
    first, second, third, other = keys.join("k"), keys.join("k"), keys.join("k"), keys.join("l")
    assert await first.turn() and await other.turn()
    second.leave()  # before its turn
    last = asyncio.create_task(third.turn())
    await asyncio.sleep(0)
    assert not last.done()
    first.leave()
    assert await last
    fourth = keys.join("k")
    stopping.set()
    assert not await fourth.turn()
    fourth.leave()
    third.leave()
    other.leave()
    again = keys.join("k")
    assert await again.turn()
