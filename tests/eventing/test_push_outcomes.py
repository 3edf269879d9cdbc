"""What a receiver remembers: bounded in number and in time."""

from __future__ import annotations

from whimbrel.eventing.push.outcomes import Outcome, Outcomes

DONE = Outcome(None, 1)


def test_the_oldest_is_forgotten_first() -> None:
    outcomes = Outcomes(most=3, seconds=100, clock=lambda: 0.0)
    for name in "abcad":
        outcomes.remember(name, DONE)
    assert [name for name in "abcd" if outcomes.recall(name)] == ["a", "c", "d"]
    assert len(outcomes) == 3


def test_an_outcome_is_kept_for_its_time() -> None:
    now = 0.0
    outcomes = Outcomes(most=10, seconds=5, clock=lambda: now)
    outcomes.remember("a", DONE)
    now = 4.0
    outcomes.remember("b", Outcome(9.0, 2))
    assert outcomes.recall("a") == DONE
    now = 5.0
    assert outcomes.recall("a") is None
    assert outcomes.recall("b") == Outcome(9.0, 2)
    now = 13.0
    assert outcomes.recall("b") == Outcome(9.0, 2), "its time begins when it may be delivered again"
    now = 14.0
    assert outcomes.recall("b") is None
    assert len(outcomes) == 0
