"""A rollout's decisions against a world that moves as it is told: every way to its two ends, killed at every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from whimbrel.core.errors import InputRefused
from whimbrel.mlflow.rollout.gates import Gate, Measure, judge
from whimbrel.mlflow.rollout.policy import parse_policy, seconds
from whimbrel.mlflow.rollout.reconcile import Backtested, Evidence, Seen, Traffic, ended_unseen, next_move, next_status
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec, new, parse, status_document

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY: dict[str, Any] = {
    "steps": [{"percent": 20, "dwell": "10s", "samples": 20}, {"percent": 50, "dwell": "10s", "samples": 20}],
    "gates": {"errors": {"allowed": 0.01, "tolerance": 0.05}},
    "deadline": "10m",
}
GATE = {Measure.ERRORS: Gate(allowed=0.01, tolerance=0.05)}
GOOD, BAD = {0.0: 200}, {1.0: 20}


def versions(number: int) -> dict[str, str]:
    digest = f"sha256:{number:064x}"
    return {"version": str(number), "uri": f"s3://models/digits/{number}", "digest": digest}


def document(policy: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    given = {
        "model": "digits",
        "inferenceService": "digits",
        "champion": versions(1),
        "candidate": versions(2),
        "pointer": "s3://models/digits/pointer.json",
        "knownObjects": "s3://models/digits/known.jsonl",
        "evidence": "s3://models/digits/rollouts",
        "policy": POLICY | (policy or {}),
        **spec,
    }
    made = new("default", "digits-2", Spec.model_validate(given))
    made["metadata"]["uid"] = "1234"
    return made


class World:
    """Moves the traffic a moment after it is told to. Each step is made by a controller that starts anew."""

    def __init__(self, policy: dict[str, Any] | None = None, **spec: Any) -> None:
        self.document = document(policy, **spec)
        self.now = START
        self.traffic = Traffic("1")
        self.harms: dict[float, int] = {}
        self.answers = 0
        self.backtested: Backtested | None = Backtested(tuple(judge(GATE, {Measure.ERRORS: GOOD}, 0.05)))
        self.failed: str | None = None

    @property
    def rollout(self) -> ModelRollout:
        """Through JSON, as the API keeps it."""
        return parse(json.loads(json.dumps(self.document)))

    def step(self) -> Phase:
        rollout = self.rollout
        evidence = Evidence({Measure.ERRORS: self.harms}, self.answers)
        traffic = Traffic(
            self.traffic.current, self.traffic.candidate, self.traffic.percent, self.traffic.arrived, self.failed
        )
        status = next_status(rollout, Seen(self.now, traffic, evidence, self.backtested))
        self.document["status"] = status_document(status)
        self.traffic = next_move(self.rollout, traffic) or self.traffic
        self.now += timedelta(seconds=1)
        return status.phase

    def until(self, phase: Phase, percent: int | None = None, most: int = 200) -> None:
        for _ in range(most):
            if self.rollout.status.phase is phase and percent in (None, self.rollout.status.percent):
                return
            self.step()
        raise AssertionError(f"expected {phase}, seen {self.rollout.status}")

    def decide(self, decision: str) -> None:
        self.document["spec"]["decision"] = decision

    def story(self) -> list[tuple[str, int]]:
        return [(entry.phase.value, entry.percent) for entry in self.rollout.status.history]


def test_a_good_candidate_goes_all_the_way() -> None:
    world = World()
    world.harms, world.answers = GOOD, 50
    world.until(Phase.PROMOTED)
    assert world.story() == [
        ("Loading", 0),
        ("Backtest", 0),
        ("Canary", 20),
        ("Canary", 50),
        ("Promoting", 100),
        ("Promoted", 100),
    ]
    assert world.traffic.like(Traffic("2"))
    status = world.rollout.status
    assert status.ended is not None
    assert status.ended - START > timedelta(seconds=20)  # both steps dwelt
    assert status.verdicts[0].outcome == "passed"
    assert next_status(world.rollout, Seen(world.now, world.traffic)).phase is Phase.PROMOTED


def test_without_a_backtest_the_canary_comes_first() -> None:
    world = World({"backtest": None})
    assert world.document["spec"]["policy"]["backtest"] is None
    assert "pointer" not in document({"movement": "ByRevision"}, pointer=None)["spec"]  # nothing else that is None
    world.until(Phase.CANARY)
    assert world.story() == [("Loading", 0), ("Canary", 20)]


def test_a_bad_candidate_is_rolled_back_at_once_and_the_verdict_says_why() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.harms = BAD
    world.until(Phase.ROLLED_BACK)
    assert world.traffic.like(Traffic("1"))
    assert world.story()[-2:] == [("RollingBack", 0), ("RolledBack", 0)]
    assert world.rollout.status.message.startswith("refused at 20%: errors failed: 1.000 (")
    assert world.rollout.status.verdicts[0].samples == 20


def test_a_step_waits_for_its_time_its_samples_and_its_gates() -> None:
    world = World()
    world.until(Phase.CANARY)
    for _ in range(4):
        world.step()
    assert world.rollout.status.message == "20%: dwells 10s"
    for _ in range(12):
        world.step()
    assert world.rollout.status.message == "20%: 0 of 20 answers of the candidate in this step"
    world.answers = 20
    world.step()
    assert world.rollout.status.message == "20%: undecided: errors"
    world.harms = GOOD
    world.step()
    assert (world.rollout.status.phase, world.rollout.status.percent) == (Phase.CANARY, 50)


def test_what_the_backtest_refuses_gets_no_traffic_unless_forced() -> None:
    refused = Backtested(tuple(judge(GATE, {Measure.ERRORS: BAD}, 0.05)), "s3://models/digits/report.html")
    world, forced = World(), World(forced=True)
    world.backtested = forced.backtested = refused
    world.until(Phase.ROLLED_BACK)
    assert max(percent for _, percent in world.story()) == 0
    assert "refused by the backtest: errors failed" in world.rollout.status.message
    assert world.rollout.status.report == "s3://models/digits/report.html"
    forced.until(Phase.CANARY)
    assert "forced past the backtest: errors failed" in forced.rollout.status.message
    forced.harms = BAD
    forced.until(Phase.ROLLED_BACK)


def test_what_cannot_be_loaded_is_given_up() -> None:
    world = World()
    world.until(Phase.LOADING)
    world.failed = "digest does not match"
    world.until(Phase.ROLLED_BACK)
    assert "digest does not match" in world.rollout.status.message


@pytest.mark.parametrize(
    "phase", [Phase.PENDING, Phase.LOADING, Phase.BACKTEST, Phase.CANARY, Phase.AWAITING_PROMOTION]
)
def test_an_abort_takes_the_traffic_back_from_everywhere(phase: Phase) -> None:
    world = World({"promotion": "Manual"})
    world.harms, world.answers = GOOD, 50
    world.until(phase)
    world.decide("Abort")
    world.until(Phase.ROLLED_BACK)
    assert world.traffic.like(Traffic("1"))


def test_a_manual_promotion_waits_for_the_word_and_still_judges() -> None:
    world, worse = World({"promotion": "Manual"}), World({"promotion": "Manual"})
    for each in (world, worse):
        each.harms, each.answers = GOOD, 50
        each.until(Phase.AWAITING_PROMOTION)
        for _ in range(30):
            each.step()
    assert (world.rollout.status.phase, world.rollout.status.percent) == (Phase.AWAITING_PROMOTION, 50)
    world.decide("Promote")
    world.until(Phase.PROMOTED)
    worse.harms = BAD
    worse.until(Phase.ROLLED_BACK)


def test_a_promotion_by_hand_overrules_the_gates() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.decide("Promote")
    world.until(Phase.PROMOTED)
    assert world.rollout.status.message == "promoted by hand"


def test_a_pause_holds_the_step_and_the_deadline_goes_on() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.document["spec"]["paused"] = True
    world.harms, world.answers = GOOD, 50
    for _ in range(60):
        world.step()
    assert (world.rollout.status.phase, world.rollout.status.percent) == (Phase.CANARY, 20)
    world.document["spec"]["paused"] = False
    world.until(Phase.PROMOTED)


@pytest.mark.parametrize(("undecided", "end"), [("RollBack", Phase.ROLLED_BACK), ("Promote", Phase.PROMOTED)])
def test_nothing_decided_by_the_deadline_ends_as_the_policy_says(undecided: str, end: Phase) -> None:
    world = World({"undecided": undecided})
    world.until(end, most=700)
    assert "nothing was decided within 10m" in world.rollout.status.message


def test_a_change_by_another_hand_is_reported_and_not_fought() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.step()
    world.step()
    world.traffic = Traffic("1", "2", 80)
    for _ in range(5):
        world.step()
    assert world.traffic.percent == 80
    assert "seen 1, 2 80%: another hand moved it" in world.rollout.status.message
    world.harms, world.answers = GOOD, 50
    world.traffic = Traffic("1", "2", 20)
    world.until(Phase.PROMOTED)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.CANARY, Phase.PROMOTING])
@pytest.mark.parametrize("theirs", [Traffic("7"), Traffic("1", "7", 20)])
def test_a_third_version_is_left_whatever_is_on_its_way_and_an_abort_ends_it_there(
    phase: Phase, theirs: Traffic
) -> None:
    world = World()
    world.harms, world.answers = GOOD, 50
    world.until(phase)
    world.traffic = theirs
    for _ in range(5):
        world.step()
    assert (world.traffic, world.rollout.status.phase) == (theirs, phase)
    assert f"seen {theirs}: another hand moved it" in world.rollout.status.message
    world.decide("Abort")
    world.until(Phase.ROLLED_BACK)
    assert world.traffic == theirs


def test_an_abort_leaves_the_traffic_only_where_it_is_not_found_for_the_progress_deadline() -> None:
    world = World({"progressDeadline": "30s"})
    just_before, then = START + timedelta(seconds=29), START + timedelta(seconds=30)
    assert ended_unseen(world.rollout, START, then, "gone") is None
    world.decide("Abort")
    pending = ended_unseen(world.rollout, START, START, "gone")
    assert pending is not None
    assert (pending.phase, pending.message) == (Phase.ROLLED_BACK, "aborted by hand before it began")
    world = World({"progressDeadline": "30s"})
    world.until(Phase.CANARY)
    world.decide("Abort")
    assert ended_unseen(world.rollout, START, just_before, "gone") is None
    left = ended_unseen(world.rollout, START, then, "gone")
    assert left is not None
    assert (left.phase, left.message) == (Phase.ROLLED_BACK, "aborted by hand, the traffic left: gone")


def test_harm_is_refused_also_while_a_replica_lags() -> None:
    world = World()
    world.until(Phase.CANARY)
    lagging = Traffic("1", "2", 20, arrived=False)
    status = next_status(world.rollout, Seen(world.now, lagging, Evidence({Measure.ERRORS: BAD}), world.backtested))
    assert status.phase is Phase.ROLLING_BACK


def test_a_rollout_begins_only_where_its_champion_has_the_traffic() -> None:
    world = World()
    for elsewhere in (Traffic("7"), Traffic("1", "7", 20)):
        world.traffic = elsewhere
        world.step()
        assert world.rollout.status.phase is Phase.PENDING
        assert f"expected the traffic at 1 alone, seen {elsewhere}" in world.rollout.status.message
        assert world.traffic.like(elsewhere)  # another rollout's, or what it has promoted
    world.traffic = Traffic("1")
    world.until(Phase.CANARY)


def test_a_promotion_by_hand_ends_a_pause_and_an_abort_ends_a_promotion() -> None:
    paused, hanging = World(), World()
    for each in (paused, hanging):
        each.until(Phase.CANARY)
    paused.document["spec"]["paused"] = True
    paused.decide("Promote")
    paused.until(Phase.PROMOTED)
    hanging.decide("Promote")
    hanging.until(Phase.PROMOTING)
    hanging.decide("Abort")
    hanging.until(Phase.ROLLED_BACK)
    assert hanging.traffic.like(Traffic("1"))


def test_once_every_known_object_was_asked_what_they_leave_undecided_holds_no_step() -> None:
    gates = {"errors": {"allowed": 0.01, "tolerance": 0.05}, "accuracy": {"allowed": 0.01, "tolerance": 0.05}}
    world = World({"gates": gates})
    world.until(Phase.CANARY)
    world.step()
    world.now += timedelta(seconds=30)
    harms = {Measure.ERRORS: GOOD, Measure.ACCURACY: {0.0: 10}}
    for all_asked, percent in ((False, 20), (True, 50)):
        seen = Seen(world.now, world.traffic, Evidence(harms, 50, all_asked), world.backtested)
        assert next_status(world.rollout, seen).percent == percent


def test_a_replica_that_lags_is_waited_for() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.harms, world.answers = GOOD, 50
    world.traffic = Traffic("1", "2", 20, arrived=False)
    for _ in range(30):
        world.document["status"].pop("arrived", None)
        status = next_status(
            world.rollout, Seen(world.now, world.traffic, Evidence({Measure.ERRORS: GOOD}, 50), world.backtested)
        )
        assert status == world.rollout.status
        world.now += timedelta(seconds=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["spec"].pop("candidate"), "candidate: Field required"),
        (lambda d: d["spec"].update(champion=versions(2)), "expected another version than the champion"),
        (lambda d: d["spec"].update(pointer="/tmp/pointer.json"), "pointer: String should match pattern"),
        (lambda d: d["spec"].pop("knownObjects"), "knownObjects: expected with a backtest or with shadows"),
        (lambda d: d["spec"].update(speed="fast"), "speed: Extra inputs are not permitted"),
        (lambda d: d["spec"]["policy"].update(steps=[{"percent": 50}, {"percent": 20}]), "expected rising percents"),
        (lambda d: d["metadata"].pop("name"), "metadata.name"),
    ],
)
def test_a_wrong_resource_is_refused_by_its_field(change: Callable[[Any], object], message: str) -> None:
    wrong = json.loads(json.dumps(document()))
    change(wrong)
    with pytest.raises(InputRefused, match=message):
        parse(wrong)


def test_a_policy_is_strict_and_its_defaults_hold_together() -> None:
    assert [step.percent for step in parse_policy({}, "policy.yaml").steps] == [20, 50]
    with pytest.raises(InputRefused, match=r"policy\.yaml: steps\.0\.dwell: .*expected a duration such as 30s"):
        parse_policy({"steps": [{"percent": 5, "dwell": "soon"}]}, "policy.yaml")
    with pytest.raises(InputRefused, match=r"gates\.speed"):
        parse_policy({"gates": {"speed": {"allowed": 0, "tolerance": 0.1}}}, "policy.yaml")
    assert (seconds("1h30m"), seconds("500ms"), seconds("1.5s")) == (5400, 0.5, 1.5)
