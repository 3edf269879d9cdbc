"""How a rollout by revision reads KServe's status and what it patches next: against every captured status, and against
KServe's own rules at any speed, killed anywhere."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.core.errors import InputRefused
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.kube.inference import read_status
from whimbrel.local.rollout import observed, read_rollout, read_traffic, resolved, split
from whimbrel.mlflow.rollout.by_revision import TAG_ROUTING, asked_by, operations, traffic_of, with_word_of
from whimbrel.mlflow.rollout.gates import Gate, Measure, judge
from whimbrel.mlflow.rollout.naming import (
    Naming,
    answers_as,
    names,
    naming_of,
    read_naming,
    read_percent,
    renaming,
)
from whimbrel.mlflow.rollout.reconcile import Backtested, Evidence, Seen, Traffic, next_move, next_status
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec, new, parse, status_document

STATUSES = Path(__file__).parents[1] / "data" / "kserve" / "status"
START = datetime(2026, 1, 1, tzinfo=UTC)
GATE = {Measure.ERRORS: Gate(allowed=0.01, tolerance=0.05)}
POLICY: dict[str, Any] = {
    "movement": "ByRevision",
    "steps": [{"percent": 20, "dwell": "1s", "samples": 1}, {"percent": 50, "dwell": "1s", "samples": 1}],
    "gates": {"errors": {"allowed": 0.01, "tolerance": 0.05}},
    "progressDeadline": "30s",
    "deadline": "1h",
}


def version(number: int) -> PointedVersion:
    return PointedVersion(version=str(number), uri=f"s3://models/digits/{number}", digest=f"sha256:{number:064x}")


def document(**policy: Any) -> dict[str, Any]:
    given = {
        "model": "digits",
        "inferenceService": "digits",
        "champion": version(1).model_dump(),
        "candidate": version(2).model_dump(),
        "knownObjects": "s3://models/digits/known.jsonl",
        "evidence": "s3://models/digits/rollouts",
        "policy": POLICY | policy,
    }
    made = new("default", "digits-2", Spec.model_validate(given))
    made["metadata"]["uid"] = "1234"
    return made


def service(uri: str, percent: int | None = None, **status: Any) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "args": ["--model-name=digits"],
        "env": [{"name": "A", "value": "b"}, {"name": "WHIMBREL_MODEL_URI", "value": uri}],
    }
    predictor: dict[str, Any] = {"containers": [container]}
    if percent is not None:
        predictor["canaryTrafficPercent"] = percent
    return {"metadata": {"name": "digits"}, "spec": {"predictor": predictor}, "status": status}


CHAMPION, CANDIDATE = "models:/digits@champion", "models:/digits/2"

# File, c0 and L0 as they were before the patch, where the traffic is wanted, whether it is there, and what is lacking.
CAPTURED = [
    (
        "11-canary20",
        ("06", "06"),
        CANDIDATE,
        (20, False),
        "waiting for revision photos-predictor-00007 of the candidate",
    ),
    ("12-canary20-ready", ("06", "06"), CANDIDATE, (20, True), ""),
    ("13-promoted-1.5s", ("06", "06"), CANDIDATE, (None, True), ""),
    ("14-promoted-8s", ("06", "06"), CANDIDATE, (None, True), ""),
    ("15-v3-canary0-1s", ("07", "07"), CANDIDATE, (0, False), "to become ready"),
    ("16-v3-canary0-ready", ("07", "07"), CANDIDATE, (0, True), ""),
    ("17-v3-canary30", ("07", "07"), CANDIDATE, (30, True), ""),
    ("18-v3-rolledback-0", ("07", "07"), CANDIDATE, (0, True), ""),
    ("19-v4-after-rollback", ("08", "07"), CANDIDATE, (0, True), ""),
    ("20-v4-canary50", ("08", "07"), CANDIDATE, (50, True), ""),
    ("21-v4-canary100", ("08", "07"), CANDIDATE, (100, False), "seen photos-predictor-00009 100%"),
    ("22-rollback-after-100-0.6s", ("08", "07"), CANDIDATE, (0, False), "00009 0%, photos-predictor-00009 100%"),
    ("23-rollback-after-100", ("08", "07"), CANDIDATE, (0, True), ""),
    ("24-repromoted-v4", ("08", "07"), CANDIDATE, (None, True), ""),
    ("25-both-changed-pred-canary20", ("09", "09"), CANDIDATE, (20, True), ""),
    ("26-both-canary20", ("09", "09"), CANDIDATE, (20, True), ""),
    ("27-promoted-both", ("09", "09"), CANDIDATE, (None, True), ""),
    ("28-broken-canary-5s", ("10", "10"), CANDIDATE, (20, False), "to become ready"),
    ("29-broken-canary-25s", ("10", "10"), CANDIDATE, (20, False), "to become ready"),
    ("31-rollout-duration-5s", ("12", "12"), CANDIDATE, (None, False), "00012 99%, photos-predictor-00013 1%"),
    ("32-rollout-duration-13s", ("12", "12"), CANDIDATE, (None, False), "to have 100%"),
    ("33-rollout-duration-27s", ("12", "12"), CANDIDATE, (None, True), ""),
    ("34-before-race", ("12", "12"), CANDIDATE, (None, True), ""),
    ("35-canary-pct-without-template-change", ("20", "20"), CANDIDATE, (10, True), ""),
    ("36-back-to-100", ("20", "20"), CANDIDATE, (None, True), ""),
    ("37-w1-at-0", ("21", "21"), CANDIDATE, (0, True), ""),
    ("39-created-with-canary0-second-revision", ("01", "01"), CANDIDATE, (0, True), ""),
    ("50-final-new-version-at-0", ("01", "01"), CANDIDATE, (0, True), ""),
    ("51-final-61-patch-step", ("01", "01"), CANDIDATE, (20, True), ""),
    ("51-final-62-patch-promote", ("01", "01"), CANDIDATE, (None, True), ""),
    ("51-final-63-patch-rollback", ("01", "01"), CANDIDATE, (0, True), ""),
    # On the way back, and before KServe has looked at a patch.
    ("30-after-broken-reverted", ("10", "10"), CHAMPION, (0, False), ""),
    ("10-before-canary", ("06", "06"), CANDIDATE, (20, False), "waiting for a revision of the candidate"),
    ("38-created-with-canary0", ("01", "01"), CANDIDATE, (0, False), "waiting for a revision of the candidate"),
    ("02-ready-first", ("01", "01"), CANDIDATE, (0, False), "waiting for a revision of the candidate"),
    ("00-podlevel-securitycontext-rejected", ("", ""), CANDIDATE, (0, False), "seen none"),
    ("01-transformer-crashloop-first-revision", ("01", "01"), CANDIDATE, (0, False), "waiting for a revision"),
]
NO_INFERENCE_SERVICE = {"03-trigger-no-addressable-role", "40-runtime-variant-rendered-template"}


def captured(name: str) -> dict[str, Any]:
    found = json.loads((STATUSES / f"{name}.json").read_text())
    status: dict[str, Any] = found.get("status", found)
    return status


def begun(created: str, rolled_out: str, candidate: str = "", phase: Phase = Phase.CANARY) -> ModelRollout:
    made = document()
    noted = {
        "created": created,
        "rolledOut": rolled_out,
        "named": {"uri": CHAMPION},
        "candidate": candidate,
    }
    made["status"] = {"phase": phase, "since": START.isoformat(), "revisions": noted}
    return parse(made)


def test_every_capture_is_read_here() -> None:
    assert {path.stem for path in STATUSES.glob("*.json")} == {name for name, *_ in CAPTURED} | NO_INFERENCE_SERVICE


@pytest.mark.parametrize(("name", "before", "uri", "seen", "lacks"), CAPTURED, ids=[each[0] for each in CAPTURED])
def test_a_captured_status(
    name: str, before: tuple[str, str], uri: str, seen: tuple[int | None, bool], lacks: str
) -> None:
    status, (percent, arrived) = captured(name), seen
    component = status.get("components", {}).get("predictor", {})
    newest = component.get("latestCreatedRevision", "")
    prefix = newest.rpartition("-")[0] or "photos-predictor"
    created, rolled_out = (f"{prefix}-000{each}" if each else "" for each in before)
    rollout = begun(created, rolled_out)

    traffic = traffic_of(service(uri, percent, **status), rollout)

    if uri == CHAMPION:
        expected = Traffic("1", "1", 0)
    else:
        expected = Traffic("2") if percent is None else Traffic("1", "2", percent)
    assert traffic.like(expected), traffic
    assert traffic.arrived is arrived
    assert lacks in (traffic.lacks or "")
    if uri == CANDIDATE:
        assert traffic.revisions is not None
        assert traffic.revisions.candidate == ("" if "waiting for a revision" in lacks or not newest else newest)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("02-ready-first", True),
        ("10-before-canary", True),
        ("34-before-race", True),
        ("38-created-with-canary0", True),
        ("00-podlevel-securitycontext-rejected", False),
        ("15-v3-canary0-1s", False),
        ("22-rollback-after-100-0.6s", False),
        ("23-rollback-after-100", False),
        ("31-rollout-duration-5s", False),
    ],
)
def test_a_rollout_begins_from_one_revision_with_all_traffic(name: str, whole: bool) -> None:
    rollout = parse(document())
    traffic = traffic_of(service(CHAMPION, **captured(name)), rollout)
    claiming = rollout.model_copy(update={"status": next_status(rollout, Seen(START, traffic))})
    status = next_status(claiming, Seen(START, traffic))

    assert (traffic.current, traffic.candidate, traffic.arrived) == ("1", None, whole)
    assert status.phase is (Phase.LOADING if whole else Phase.PENDING)
    if whole:
        assert status.revisions is not None
        assert status.revisions.rolled_out == read_status({"status": captured(name)}).predictor.rolled_out
    else:
        assert status.message.startswith("expected one revision, ready, with all traffic; waiting for revision")


def test_the_way_back_waits_for_the_champions_own_revision() -> None:
    """Taking the field out earlier would give all traffic to the newest that is ready: the candidate."""
    back = Traffic("1")
    parked, reverted = captured("16-v3-canary0-ready"), captured("30-after-broken-reverted")
    stale = begun("photos-predictor-00007", "photos-predictor-00007", "photos-predictor-00008", Phase.ROLLING_BACK)
    assert operations(service(CHAMPION, 0, **parked), stale, back, START) == []
    ready = begun("photos-predictor-00010", "photos-predictor-00010", "photos-predictor-00011", Phase.ROLLING_BACK)
    assert operations(service(CHAMPION, 0, **reverted), ready, back, START) == [
        {"op": "test", "path": "/spec/predictor/canaryTrafficPercent", "value": 0},
        {"op": "remove", "path": "/spec/predictor/canaryTrafficPercent"},
    ]


def test_the_way_back_is_one_patch_of_name_and_share() -> None:
    rollout = begun("photos-predictor-00010", "photos-predictor-00010", phase=Phase.ROLLING_BACK)
    broken = service(CANDIDATE, 20, **captured("29-broken-canary-25s"))
    name, share = "/spec/predictor/containers/0/env/1/value", "/spec/predictor/canaryTrafficPercent"
    assert operations(broken, rollout, Traffic("1"), START) == [
        {"op": "test", "path": name, "value": CANDIDATE},
        {"op": "replace", "path": name, "value": CHAMPION},
        {"op": "test", "path": share, "value": 20},
        {"op": "replace", "path": share, "value": 0},
    ]


def test_a_promoted_candidate_goes_back_by_the_share_first() -> None:
    """The old template with 0 would leave all traffic at the candidate, which is the last that had all of it."""
    rollout = begun("photos-predictor-00006", "photos-predictor-00006", phase=Phase.ROLLING_BACK)
    promoted, back = captured("13-promoted-1.5s"), Traffic("1")
    assert operations(service(CANDIDATE, **promoted), rollout, back, START) == [
        {"op": "add", "path": "/spec/predictor/canaryTrafficPercent", "value": 0}
    ]
    assert operations(service(CANDIDATE, 0, **promoted), rollout, back, START) == []
    settling = begun("photos-predictor-00008", "photos-predictor-00007", phase=Phase.ROLLING_BACK)
    assert operations(service(CANDIDATE, 0, **captured("22-rollback-after-100-0.6s")), settling, back, START) == []
    assert len(operations(service(CANDIDATE, 0, **captured("23-rollback-after-100")), settling, back, START)) == 2


@pytest.mark.parametrize("target", [Traffic("1"), Traffic("2"), Traffic("1", "2", 50)])
def test_a_third_model_by_another_hand_is_never_patched_over(target: Traffic) -> None:
    rollout = begun("photos-predictor-00006", "photos-predictor-00006", phase=Phase.ROLLING_BACK)
    theirs = service("models:/digits/7", 20, **captured("12-canary20-ready"))
    assert operations(theirs, rollout, target, START + timedelta(hours=1)) == []
    assert traffic_of(theirs, rollout).current == "models:/digits/7"


def test_without_revisions_it_is_refused() -> None:
    standard = service(CHAMPION, deploymentMode="Standard")
    with pytest.raises(InputRefused, match="seen Standard; roll out in place"):
        traffic_of(standard, parse(document()))


@dataclass
class KServe:
    """An InferenceService and what KServe and Knative make of it, each when it is told to look."""

    object: dict[str, Any] = field(default_factory=lambda: service(CHAMPION))
    revisions: list[str] = field(default_factory=list)  # the names of models, by number
    ready: set[int] = field(default_factory=set)
    never_ready: frozenset[str] = frozenset()

    def patch(self, patch: list[dict[str, Any]]) -> None:
        self.object = jsonpatch.JsonPatch(patch).apply(copy.deepcopy(self.object))

    def look(self) -> None:
        """One look of each controller; a revision becomes ready by the look after the one that made it."""
        model = read_naming(self.object).uri
        component = self.object["status"].setdefault("components", {}).setdefault("predictor", {})
        self.ready |= {n for n, each in enumerate(self.revisions, 1) if each not in self.never_ready}
        if not self.revisions or self.revisions[-1] != model:
            self.revisions.append(model)
        created, ready = (f"digits-predictor-{n:05d}" for n in (len(self.revisions), max(self.ready, default=0)))
        if not self.ready:
            component["latestCreatedRevision"] = created
            return
        before = read_rollout(component)
        traffic = resolved(split(read_percent(self.object), before), ready)
        after = observed(before, created, ready, traffic)
        entries = [
            {"revisionName": t.revision, "percent": t.percent, "tag": t.tag, "latestRevision": t.latest}
            for t in traffic
        ]
        component |= {
            "latestCreatedRevision": created,
            "latestReadyRevision": ready,
            "latestRolledoutRevision": after.rolled_out,
            "previousRolledoutRevision": after.previous,
            "traffic": entries,
        }

    def share_of(self, model: str) -> int:
        entries = self.object["status"]["components"]["predictor"].get("traffic", [])
        return sum(t.percent for t in read_traffic(entries) if self.revisions[int(t.revision[-5:]) - 1] == model)


@dataclass
class World:
    """A rollout and a KServe; each round of the controller is made by one that knows nothing of the last."""

    kserve: KServe = field(default_factory=KServe)
    document: dict[str, Any] = field(default_factory=document)
    now: datetime = START
    harms: dict[float, int] = field(default_factory=lambda: {0.0: 200})
    most: int = 0  # that the candidate was ever allowed

    def __post_init__(self) -> None:
        for _ in range(3):
            self.kserve.look()

    @property
    def rollout(self) -> ModelRollout:
        return parse(json.loads(json.dumps(self.document)))

    def round(self, *, killed: bool = False) -> None:
        """`killed`: between the status and the move."""
        self.now += timedelta(seconds=1)
        rollout, seen_object = self.rollout, copy.deepcopy(self.kserve.object)
        if rollout.ended:
            return
        traffic = traffic_of(seen_object, rollout)
        backtested = Backtested(tuple(judge(GATE, {Measure.ERRORS: {0.0: 200}}, 0.05)))
        evidence = Evidence({Measure.ERRORS: self.harms}, answers=100)
        status = next_status(rollout, Seen(self.now, traffic, evidence, backtested))
        self.document["status"] = status_document(status)
        self.most = max(self.most, status.percent)
        target = next_move(self.rollout, traffic)
        if target is not None and not killed:
            self.kserve.patch(operations(seen_object, rollout.noting(traffic.revisions), target, self.now))

    def does(self, what: str) -> None:
        if what == "kserve":
            self.kserve.look()
        else:
            self.round(killed=what == "killed")
        assert self.kserve.share_of(CANDIDATE) <= self.most, (what, self.rollout.status, self.kserve.object)

    def until(self, *phases: Phase, most: int = 400) -> None:
        for _ in range(most):
            if self.rollout.status.phase in phases:
                return
            for what in ("controller", "kserve"):
                self.does(what)
        raise AssertionError(f"expected {phases}, seen {self.rollout.status}, {self.kserve.object}")

    def story(self) -> list[tuple[str, int]]:
        return [(entry.phase.value, entry.percent) for entry in self.rollout.status.history]

    def assert_as_before(self) -> None:
        """As Git has it, with all traffic at a revision of the champion."""
        assert self.kserve.object["spec"] == service(CHAMPION)["spec"]
        assert (self.kserve.share_of(CHAMPION), self.kserve.share_of(CANDIDATE)) == (100, 0)


WHOLE_WAY = [("Loading", 0), ("Backtest", 0), ("Canary", 20), ("Canary", 50), ("Promoting", 100), ("Promoted", 100)]


def a_pod(restarts: int, *, ready: bool = False, leaves: bool = False, phase: str = "Running") -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "predictor",
        "ready": ready,
        "restartCount": restarts,
        "state": {"running": {}},
    }
    if restarts:
        container["lastState"] = {"terminated": {"exitCode": 137}}
    metadata = {"name": f"pod-{restarts}"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaves else {})
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": [container]}}


CANARY = Traffic("1", "2", 20)


@pytest.mark.parametrize(
    ("pods", "traffic", "arrived", "failed", "lacks"),
    [
        ([], CANARY, True, None, None),  # at zero, or they may not be seen
        ([a_pod(2, ready=True)], CANARY, True, None, None),
        ([a_pod(7, ready=True)], CANARY, True, None, None),
        ([a_pod(2)], CANARY, False, None, "pod pod-2, predictor: ended, exit code 137, 2 restarts"),
        ([a_pod(2), a_pod(0, ready=True)], CANARY, True, None, None),
        (
            [a_pod(3), a_pod(0, ready=True)],
            CANARY,
            True,
            "pod pod-3, predictor: ended, exit code 137, 3 restarts",
            None,
        ),
        ([a_pod(3, leaves=True)], CANARY, True, None, None),
        ([a_pod(3, phase="Failed")], CANARY, True, None, None),  # evicted, say
        (
            [a_pod(3)],
            Traffic("1", "1", 0, arrived=False, lacks="w"),
            False,
            None,
            "w: pod pod-3, predictor: ended, exit",
        ),
    ],
)
def test_what_the_pods_say_of_the_newest_revision(
    pods: list[dict[str, Any]], traffic: Traffic, arrived: bool, failed: str | None, lacks: str | None
) -> None:
    seen = with_word_of(pods, traffic, "2")
    assert (seen.arrived, seen.failed) == (arrived, failed)
    assert (seen.lacks or "").startswith(lacks or "")
    assert seen.lacks is None or lacks


def test_no_step_ends_while_no_pod_of_the_candidate_is_ready() -> None:
    rollout = begun("photos-predictor-00006", "photos-predictor-00006", phase=Phase.CANARY)
    status = rollout.status.model_copy(update={"since": START, "arrived": START, "percent": 20})
    rollout = rollout.model_copy(update={"status": status})
    enough, later = Evidence({Measure.ERRORS: {0.0: 200}}, answers=100), START + timedelta(seconds=5)
    down = with_word_of([a_pod(1)], CANARY, "2")
    waits = next_status(rollout, Seen(later, down, enough))
    assert (waits.phase, waits.percent, waits.message) == (
        Phase.CANARY,
        20,
        "pod pod-1, predictor: ended, exit code 137, 1 restarts",
    )
    assert next_status(rollout, Seen(later, CANARY, enough)).percent == 50


def test_a_good_candidate_goes_all_the_way_and_leaves_no_percent() -> None:
    world = World()
    world.until(Phase.PROMOTED)
    assert world.story() == WHOLE_WAY
    assert world.kserve.object["spec"] == service(CANDIDATE)["spec"]
    assert world.kserve.share_of(CANDIDATE) == 100


def test_harm_takes_the_traffic_back_and_the_champions_name() -> None:
    world = World()
    world.until(Phase.CANARY)
    world.harms = {1.0: 20}
    world.until(Phase.ROLLED_BACK)
    assert world.rollout.status.message.startswith("refused at 20%: errors failed")
    world.assert_as_before()


def test_a_candidate_that_never_becomes_ready_ends_at_the_progress_deadline() -> None:
    world = World(KServe(never_ready=frozenset({CANDIDATE})))
    world.until(Phase.ROLLED_BACK)
    assert world.rollout.status.message.startswith("the candidate was not ready within 30s; waiting for revision")
    assert world.most == 0
    world.assert_as_before()


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.BACKTEST, Phase.CANARY, Phase.PROMOTING])
def test_an_abort_from_anywhere(phase: Phase) -> None:
    world = World()
    world.until(phase)
    world.document["spec"]["decision"] = "Abort"
    world.until(Phase.ROLLED_BACK)
    world.assert_as_before()


def test_an_abort_before_kserve_has_looked_waits_for_it_and_no_longer_than_the_progress_deadline() -> None:
    world = World()
    world.round()  # in which it claims the traffic
    world.round()  # in which it is begun and named, so that no other rollout begins from the same state
    assert world.rollout.status.phase is Phase.LOADING
    assert read_naming(world.kserve.object).uri == CANDIDATE
    world.document["spec"]["decision"] = "Abort"
    for _ in range(10):
        world.round()
    assert (world.rollout.status.phase, read_naming(world.kserve.object).uri) == (Phase.ROLLING_BACK, CANDIDATE)
    assert world.rollout.status.message == "waiting for a revision of the candidate, seen digits-predictor-00001"
    for _ in range(40):
        world.round()
    world.until(Phase.ROLLED_BACK)
    world.assert_as_before()


@pytest.mark.parametrize("change", [{"percent": 80}, {"uri": "models:/digits/7"}])
def test_another_hand_is_reported_and_not_fought(change: dict[str, Any]) -> None:
    world = World(document=document(steps=[{"percent": 20, "dwell": "30s", "samples": 1}]))
    world.until(Phase.CANARY)
    for _ in range(4):
        world.round()
        world.kserve.look()
    assert world.rollout.status.arrived is not None
    by_hand = service(change.get("uri", CANDIDATE), change.get("percent", 20))["spec"]
    world.kserve.object["spec"], world.most = copy.deepcopy(by_hand), 80
    for _ in range(5):
        world.round()
        world.kserve.look()
    assert "another hand moved it" in world.rollout.status.message
    assert world.kserve.object["spec"] == by_hand
    world.kserve.object["spec"] = service(CANDIDATE, 20)["spec"]
    world.until(Phase.PROMOTED)


@given(
    st.lists(st.sampled_from(["kserve", "kserve", "controller", "killed", "worse", "abort"]), max_size=60),
    st.booleans(),
)
@settings(max_examples=60)
def test_at_any_speed_and_killed_anywhere_the_end_is_a_right_one(schedule: list[str], broken: bool) -> None:
    world = World(KServe(never_ready=frozenset({CANDIDATE} if broken else ())))
    for what in schedule:
        if what == "worse":
            world.harms = {1.0: 20}
        elif what == "abort":
            world.document["spec"]["decision"] = "Abort"
        else:
            world.does(what)
    world.until(Phase.PROMOTED, Phase.ROLLED_BACK)
    if world.rollout.status.phase is Phase.PROMOTED:
        assert (world.kserve.object["spec"], world.kserve.share_of(CANDIDATE)) == (service(CANDIDATE)["spec"], 100)
    else:
        world.assert_as_before()


def container(*arguments: str, **environment: str) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in environment.items()]
    found = {"name": "kserve-container", "args": list(arguments), "env": env}
    return {"metadata": {"name": "digits"}, "spec": {"predictor": {"containers": [found]}}}


def model(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "digits"}, "spec": {"predictor": {"model": fields}}}


DIGEST_1 = version(1).digest


@pytest.mark.parametrize(
    ("manifest", "uri", "answers"),
    [
        (container(WHIMBREL_MODEL_URI="models:/digits@champion"), "models:/digits/2", "2"),
        (container(WHIMBREL_MODEL_URI="models:/digits/1", WHIMBREL_MODEL_DIGEST=DIGEST_1), "models:/digits/2", "2"),
        (
            container("--model-uri=s3://models/digits/1", "--model_digest", DIGEST_1, WHIMBREL_MODEL_URI="null:3"),
            "s3://models/digits/2",
            "000000000000",
        ),
        (
            model(
                storageUri="s3://models/digits/1",
                args=["--model-uri=file:///mnt/models"],
                env=[
                    {"name": "WHIMBREL_MODEL_VERSION", "value": "1"},
                    {"name": "whimbrel_model_digest", "value": DIGEST_1},
                ],
            ),
            "s3://models/digits/2",
            "2",
        ),
    ],
)
def test_a_manifest_names_another_version_in_its_own_way(manifest: dict[str, Any], uri: str, answers: str) -> None:
    before = read_naming(manifest)
    assert names(before, version(1), "digits", champion=True)
    assert not names(before, version(2), "digits", champion=False)

    after = naming_of(version(2), before, "digits")
    changed = jsonpatch.JsonPatch(renaming(manifest, after)).apply(copy.deepcopy(manifest))

    assert read_naming(changed) == after
    assert (after.uri, answers_as(after, version(2))) == (uri, answers)
    assert names(after, version(2), "digits", champion=False)
    assert after.digest in (None, version(2).digest)
    assert jsonpatch.JsonPatch(renaming(changed, before)).apply(copy.deepcopy(changed)) == manifest


def test_an_alias_names_the_champion_alone_and_a_digest_decides() -> None:
    assert not names(Naming(uri="models:/digits@champion"), version(2), "digits", champion=False)
    assert not names(Naming(uri="models:/digits@staging"), version(1), "digits", champion=True)
    assert not names(Naming(uri="models:/birds/1"), version(1), "digits", champion=True)
    assert not names(Naming(uri=version(1).uri, digest=version(2).digest), version(1), "digits", champion=True)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (container(), "expected the predictor of InferenceService 'digits' to name its model by WHIMBREL_MODEL_URI"),
        (model(modelFormat={"name": "whimbrel"}), "or storageUri, seen none"),
        (container(WHIMBREL_MODEL_URI="pointer+s3://models/digits/pointer.json"), "roll out in place"),
        (container(WHIMBREL_MODEL_URI="s3://models/digits/1"), "with WHIMBREL_MODEL_DIGEST beside it"),
        (container(WHIMBREL_MODEL_URI="file:///models"), "expected models:/NAME/VERSION"),
    ],
)
def test_what_names_no_version_is_refused_with_the_remedy(manifest: dict[str, Any], said: str) -> None:
    with pytest.raises(InputRefused) as refused:
        read_naming(manifest)
    assert said in str(refused.value)


def test_both_are_asked_by_the_tags_of_their_revisions() -> None:
    spec, manifest = parse(document()).spec, service(CANDIDATE, 20)
    with pytest.raises(InputRefused, match="expected the annotation"):
        asked_by(manifest, spec)
    manifest["metadata"]["annotations"] = {TAG_ROUTING: "true"}
    champion, candidate = asked_by(manifest, spec)
    assert (champion.version, champion.tag, champion.digest) == ("1", "prev", DIGEST_1)
    assert (candidate.version, candidate.tag, candidate.digest) == ("2", "latest", version(2).digest)
