"""Evidence by betting, and the gates on it: rarely wrong though looked at after every sample, and soon right."""

from __future__ import annotations

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
    live_harms,
    overall,
    paired_harms,
    slow_above,
)

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
        (verdict,) = judge({Measure.ACCURACY: gate}, {Measure.ACCURACY: values[:count]}, ALPHA)
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
    bet.add([value])
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
    low, high = interval(values, ALPHA)
    assert -1 <= low <= high <= 1
    if values:
        mean = sum(values) / len(values)
        assert low - 0.002 <= mean <= high + 0.002


def test_an_interval_of_nothing_is_everything_and_it_narrows() -> None:
    random = np.random.default_rng(3)
    assert interval([], ALPHA) == (-1, 1)
    few, many = (interval(differences(random, count, 0.0), ALPHA) for count in (50, 2000))
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_evidence_is_the_same_in_one_piece_and_in_many() -> None:
    values = differences(np.random.default_rng(1), 300, 0.03)
    whole, pieces = Bet(0.01), Bet(0.01)
    whole.add(values)
    for start in range(0, 300, 7):
        pieces.add(values[start : start + 7])
    assert pieces.log_evidence == pytest.approx(whole.log_evidence)
    assert pieces.count == whole.count == 300


@pytest.mark.parametrize("value", [1.5, -1.01, float("nan")])
def test_a_value_out_of_its_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected values in"):
        Bet(0.1).add([0.0, value])


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected more than allowed"):
        Gate(allowed=0.05, tolerance=0.05)


def test_a_verdict_names_the_figures_and_nothing_passes_on_too_few() -> None:
    harms = {Measure.ERRORS: [0.0] * 400, Measure.ACCURACY: [1.0] * 60}
    gates = {Measure.ERRORS: GATE, Measure.ACCURACY: GATE, Measure.LATENCY: GATE}
    errors, accuracy, latency = judge(gates, harms, ALPHA, least_samples=500)
    assert (errors.outcome, accuracy.outcome, latency.outcome) == (
        Outcome.UNDECIDED,
        Outcome.FAILED,
        Outcome.UNDECIDED,
    )
    assert (latency.samples, latency.low, latency.high) == (0, -1, 1)
    assert judge(gates, harms, ALPHA)[0].outcome is Outcome.PASSED
    assert accuracy.line().startswith("accuracy failed: 1.000 (0.")
    assert accuracy.line().endswith("of 60 samples, allowed 0.010, tolerated 0.050")
    assert overall([errors, latency]) is Outcome.UNDECIDED
    assert overall([errors, accuracy]) is Outcome.FAILED
    assert overall([]) is Outcome.PASSED


def answer(label: str = "seven", milliseconds: float = 10, *, score: float = 0.9) -> Answer:
    return Answer(label, score, milliseconds)


FAILED = Answer(None, None, 5, failed=True)


def test_paired_harms_hold_each_object_against_itself() -> None:
    champion = [answer(), answer("two"), FAILED, answer()]
    candidate = [answer("one", 50, score=0.5), answer("two"), answer(), FAILED]
    harms = paired_harms(champion, candidate, ["seven", None, "seven", "seven"], slow=40)
    assert harms[Measure.ACCURACY] == [1.0]  # the second has no truth, the others no pair
    assert harms[Measure.AGREEMENT] == [1.0, 0.0]
    assert harms[Measure.ERRORS] == [0.0, 0.0, -1.0, 1.0]
    assert harms[Measure.LATENCY] == [1.0, 0.0]
    assert harms[Measure.SCORE] == pytest.approx([0.4, 0.0])


def test_live_harms_hold_each_answer_of_the_candidate_against_the_champions_just_before() -> None:
    requests = [(True, FAILED), (False, answer()), (False, FAILED), (True, FAILED), (True, answer())]
    requests += [(False, answer(milliseconds=99)), (True, answer())]
    harms = live_harms(requests, slow=50)
    assert harms[Measure.ERRORS] == [0.5, 0.0]  # the first and the third have no champion before them
    assert harms[Measure.LATENCY] == [-1.0]


def test_slow_is_what_the_champion_hardly_ever_is() -> None:
    assert slow_above([float(each) for each in range(100)]) == 95
    assert slow_above([]) == float("inf")
