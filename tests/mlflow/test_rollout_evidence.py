"""Evidence by betting, and the gates on it: rarely wrong though looked at after every sample, and soon right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.mlflow.rollout.evidence import Bet, interval
from whimbrel.mlflow.rollout.gates import (
    Answer,
    Gate,
    Measure,
    Outcome,
    judge,
    paired_harms,
    slow_above,
)
from whimbrel.mlflow.rollout.live import LiveCounts, Requests

ALPHA = 0.05
GATE = Gate(allowed=0.01, tolerance=0.05)


def differences(random: np.random.Generator, count: int, mean: float, discordant: float = 0.1) -> list[float]:
    """Values of -1, 0 and 1 of that mean, as two classifiers that disagree now and then give."""
    drawn = random.random(count)
    up = (discordant + mean) / 2
    return [1.0 if each < up else -1.0 if each < discordant else 0.0 for each in drawn]


def first_decision(values: list[float], gate: Gate = GATE) -> tuple[Outcome, int]:
    """Looked at after every 50 values, as a controller does."""
    for count in range(50, len(values) + 1, 50):
        (verdict,) = judge({Measure.ACCURACY: gate}, {Measure.ACCURACY: Counter(values[:count])}, ALPHA)
        if verdict.outcome is not Outcome.UNDECIDED:
            return verdict.outcome, count
    return Outcome.UNDECIDED, len(values)


def test_a_mean_at_the_bound_is_rejected_at_most_as_often_as_asked_however_often_one_looks() -> None:
    """The bound itself is the worst case. 200 gamblers, each looked at after each of 300 values."""
    random = np.random.default_rng(11)
    rejected = 0
    for _ in range(200):
        bet = Bet(0.02)
        rejected += any(_added(bet, value).rejects(ALPHA) for value in differences(random, 300, 0.02))
    assert rejected <= 0.05 * 200


def _added(bet: Bet, value: float) -> Bet:
    bet.add({value: 1})
    return bet


def test_a_candidate_five_points_worse_fails_and_an_equal_one_passes_within_hundreds_of_samples() -> None:
    random = np.random.default_rng(5)
    worse = [first_decision(differences(random, 4000, 0.06)) for _ in range(20)]
    equal = [first_decision(differences(random, 4000, 0.0)) for _ in range(20)]
    assert [outcome for outcome, _ in worse].count(Outcome.FAILED) >= 19
    assert [outcome for outcome, _ in equal].count(Outcome.PASSED) >= 19
    assert 30 < np.median([count for _, count in worse]) < 1000
    assert 30 < np.median([count for _, count in equal]) < 1000


@given(st.lists(st.floats(-1, 1), max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_interval_holds_the_mean_of_what_was_seen(values: list[float]) -> None:
    low, high = interval(Counter(values), ALPHA)
    assert -1 <= low <= high <= 1
    if values:
        mean = sum(values) / len(values)
        assert low - 0.002 <= mean <= high + 0.002


def test_an_interval_of_nothing_is_everything_and_it_narrows() -> None:
    random = np.random.default_rng(3)
    assert interval({}, ALPHA) == (-1, 1)
    few, many = (interval(Counter(differences(random, count, 0.0)), ALPHA) for count in (50, 2000))
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_evidence_is_the_same_in_one_piece_and_in_many() -> None:
    values = differences(np.random.default_rng(1), 300, 0.03)
    whole, pieces = Bet(0.01), Bet(0.01)
    whole.add(Counter(values))
    for start in range(0, 300, 7):
        pieces.add(Counter(values[start : start + 7]))
    assert pieces.log_evidence == pytest.approx(whole.log_evidence)
    assert pieces.count == whole.count == 300


@pytest.mark.parametrize("value", [1.5, -1.01, float("nan")])
def test_a_value_out_of_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected values in"):
        Bet(0.1).add({0.0: 1, value: 1})


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected more than allowed"):
        Gate(allowed=0.05, tolerance=0.05)


def test_a_verdict_names_the_figures() -> None:
    harms = {Measure.ERRORS: {0.0: 400}, Measure.ACCURACY: {1.0: 60}}
    gates = {Measure.ERRORS: GATE, Measure.ACCURACY: GATE, Measure.LATENCY: GATE}
    errors, accuracy, latency = judge(gates, harms, ALPHA)
    assert (errors.outcome, accuracy.outcome, latency.outcome) == (
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.UNDECIDED,
    )
    assert (latency.samples, latency.low, latency.high) == (0, -1, 1)
    assert accuracy.line().startswith("accuracy failed: 1.000 (0.")
    assert accuracy.line().endswith("of 60 samples, allowed 0.010, tolerated 0.050")


def answer(label: str = "seven", milliseconds: float = 10, *, score: float = 0.9) -> Answer:
    return Answer(label, score, milliseconds)


FAILED = Answer(None, None, 5, failed=True)


def test_paired_harms_hold_each_object_against_itself() -> None:
    champion = [answer(), answer("two"), FAILED, answer(), FAILED]
    candidate = [answer("one", 50, score=0.5), answer("two"), answer(), FAILED, FAILED]
    harms = paired_harms(champion, candidate, ["seven", None, "seven", "seven", "seven"], slow=40)
    assert harms[Measure.ACCURACY] == {1.0: 1}  # the second has no truth, the others no pair
    assert harms[Measure.AGREEMENT] == {1.0: 1, 0.0: 1}
    assert harms[Measure.ERRORS] == {0.0: 2, -1.0: 1, 1.0: 1}  # where both failed it was the object
    assert harms[Measure.LATENCY] == {1.0: 1, 0.0: 1}
    assert harms[Measure.SCORE] == {0.4: 1, 0.0: 1}


def counts(champion: tuple[int, int], candidate: tuple[int, int], replica: str = "a") -> Requests:
    return {replica: {"1": champion, "2": candidate}}


def test_live_requests_count_from_the_first_look_on_and_from_anew_where_a_replica_began_again() -> None:
    live = LiveCounts("1", "2")
    live.look(counts((1000, 5), (30, 30)))
    assert (live.answers, live.errors) == (0, {})
    live.look(counts((1010, 5), (40, 30)))
    assert (live.answers, live.errors) == (10, {0.0: 10, 1.0: 0, -1.0: 0})
    live.look(counts((4, 0), (2, 2)))  # the process was killed
    assert live.answers == 14
    assert live.errors == {0.0: 12, 1.0: 2, -1.0: 0}


def test_a_request_of_the_candidate_without_one_of_the_champion_says_nothing() -> None:
    live = LiveCounts("1", "2")
    live.look(counts((0, 0), (0, 0)))
    live.look(counts((3, 0), (0, 90)))
    assert (live.answers, sum(live.errors.values()), live.errors[1.0]) == (90, 3, 3)


def test_equal_error_rates_at_unequal_shares_are_no_evidence() -> None:
    """9 to 1 at each look, both failing one request in twenty: against one baseline a look, most would be refused."""
    random = np.random.default_rng(2)
    refused = 0
    for _ in range(60):
        live, totals = LiveCounts("1", "2"), np.zeros(4, int)
        live.look(counts((0, 0), (0, 0)))
        for _look in range(150):
            failed_0, failed = random.binomial(9, 0.05), random.binomial(1, 0.05)
            totals += (9 - failed_0, failed_0, 1 - failed, failed)
            live.look(counts((int(totals[0]), int(totals[1])), (int(totals[2]), int(totals[3]))))
        bet = Bet(0.005)
        bet.add(live.errors)
        refused += bet.rejects(ALPHA)
    assert refused <= 0.05 * 60


def test_slow_is_what_the_champion_hardly_ever_is() -> None:
    assert slow_above([float(each) for each in range(100)]) == 95
    assert slow_above([]) == float("inf")
