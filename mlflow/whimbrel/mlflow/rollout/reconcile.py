"""What a rollout does next: an ordered list of small steps, the first that has something to say decides; pure.

The status says where the traffic is wanted, and is written before the traffic moves; a move that is already made is
made again without harm. So a controller may be killed between any two lines, and the next one goes on from the status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from whimbrel.mlflow.rollout.gates import OF_THE_OBJECTS, Harms, Outcome, Verdict, judge
from whimbrel.mlflow.rollout.live import Requests
from whimbrel.mlflow.rollout.ownership import gives_way, waited_for
from whimbrel.mlflow.rollout.policy import Movement, Promotion, Step, Undecided, seconds
from whimbrel.mlflow.rollout.resource import Decision, ModelRollout, Phase, Revisions, Status


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where the requests go: `current` has all that `candidate` has not, which has `percent`. Both are versions.

    `arrived`: every replica, or the routes, report it; `lacks`: what is waited for until then, where the movement can
    tell. `failed`: why the candidate cannot serve, if it cannot. `requests`: what has been answered so far, likewise.
    `revisions`: what to note, by revision.
    """

    current: str
    candidate: str | None = None
    percent: int = 0
    arrived: bool = True
    failed: str | None = None
    requests: Requests = field(default_factory=dict)
    lacks: str | None = None
    revisions: Revisions | None = None

    def like(self, other: Traffic) -> bool:
        ours, theirs = (self.current, self.candidate, self.percent), (other.current, other.candidate, other.percent)
        return ours == theirs

    def changed(self, **changes: Any) -> Traffic:
        return replace(self, **changes)

    def __str__(self) -> str:
        return f"{self.current}, {self.candidate} {self.percent}%" if self.candidate else f"{self.current} alone"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of the canary. `harms` since its first step; `answers` of the candidate in this step. `all_asked`: every known
    object was, so they have no more to tell."""

    harms: Harms = field(default_factory=dict)
    answers: int = 0
    all_asked: bool = False


@dataclass(frozen=True, slots=True)
class Backtested:
    verdicts: tuple[Verdict, ...]
    report: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """`backtested` is None until the backtest was made. `trouble`: why what both are asked goes unanswered, if so.
    `rivals`: other rollouts of the same traffic that have not ended; of a rollout that has begun they are not asked."""

    now: datetime
    traffic: Traffic
    evidence: Evidence = Evidence()
    backtested: Backtested | None = None
    trouble: str | None = None
    rivals: tuple[ModelRollout, ...] = ()


_BEFORE_ANY_TRAFFIC: Final = frozenset({Phase.LOADING, Phase.BACKTEST})
JUDGED: Final = frozenset({Phase.CANARY, Phase.AWAITING_PROMOTION})
LEAVING: Final = frozenset({Phase.PROMOTING, Phase.ROLLING_BACK})


def wanted(rollout: ModelRollout) -> Traffic:
    """Where the traffic belongs by the status."""
    champion, candidate = rollout.spec.champion.version, rollout.spec.candidate.version
    match rollout.status.phase:
        case Phase.PENDING | Phase.ROLLING_BACK | Phase.ROLLED_BACK:
            return Traffic(champion)
        case Phase.PROMOTING | Phase.PROMOTED:
            return Traffic(candidate)
        case _:
            return Traffic(champion, candidate, rollout.status.percent)


def moved_by_another_hand(rollout: ModelRollout, traffic: Traffic) -> bool:
    """Whether a third version is named, or the traffic was seen where it belongs and is elsewhere now."""
    if rollout.status.phase is Phase.PENDING:
        return False
    ours = {None, rollout.spec.champion.version, rollout.spec.candidate.version}
    third = not {traffic.current, traffic.candidate} <= ours
    return third or (rollout.status.arrived is not None and not traffic.like(wanted(rollout)))


def next_move(rollout: ModelRollout, traffic: Traffic) -> Traffic | None:
    """Where the traffic is to be moved now. One that waits for another rollout, or has met another hand, moves none."""
    status, target = rollout.status, wanted(rollout)
    still = rollout.ended or status.phase is Phase.PENDING or status.arrived is not None
    if still or traffic.like(target) or moved_by_another_hand(rollout, traffic):
        return None
    return target


def next_status(rollout: ModelRollout, seen: Seen) -> Status:
    """The status from now on; the same one while there is nothing to do but wait."""
    if rollout.status.phase is not Phase.PENDING:
        rollout = rollout.noting(seen.traffic.revisions)
    for step in STEPS:
        status = step(rollout, seen)
        if status is not None:
            return status
    return rollout.status


def ended_unseen(rollout: ModelRollout, since: datetime, now: datetime, why: str) -> Status | None:
    """Of one that is aborted where what says its traffic, the InferenceService or the pointer, was not found `since`
    then: else it would never end, and hold up those after it. It leaves the traffic, so it waits for the progress
    deadline: what is deleted and created anew may come back with traffic of the candidate's."""
    status, aborted, limit = rollout.status, rollout.spec.aborted, rollout.spec.policy.progress_deadline
    if aborted is None:
        return None
    if status.phase is Phase.PENDING:
        return status.entered(Phase.ROLLED_BACK, now, f"{aborted} before it began")
    if now < since + timedelta(seconds=seconds(limit)):
        return None
    return status.entered(Phase.ROLLED_BACK, now, f"{aborted}, the traffic left: {why}")


def _end_before_it_began(rollout: ModelRollout, seen: Seen) -> Status | None:
    status, why = rollout.status, rollout.spec.aborted
    if status.phase is not Phase.PENDING or why is None:
        return None
    return status.entered(Phase.ROLLED_BACK, seen.now, f"{why} before it began")


def _wait_for_its_turn(rollout: ModelRollout, seen: Seen) -> Status | None:
    """A claim stands only while nothing but rivals that come later is in the way."""
    status = rollout.status
    if status.phase is not Phase.PENDING:
        return None
    unclaimed = status.model_copy(update={"claimed": None})
    other = waited_for(seen.rivals)
    if other is not None:
        waiting = unclaimed if gives_way(rollout, other) else status
        return _saying(waiting, f"waits for the end of the rollout {other.name} of the same traffic")
    champion, candidate = rollout.spec.champion.version, rollout.spec.candidate.version
    if seen.traffic.current != champion or seen.traffic.candidate not in {None, candidate}:
        return _saying(
            unclaimed,
            f"expected the traffic at {champion} alone, seen {seen.traffic}; end the other rollout, or point the alias "
            "champion at what serves and start anew",
        )
    if rollout.spec.policy.movement is Movement.BY_REVISION and not seen.traffic.arrived:
        return _saying(unclaimed, f"expected one revision, ready, with all traffic; {seen.traffic.lacks}")
    return None


def _begin(rollout: ModelRollout, seen: Seen) -> Status | None:
    """With a claim that was seen to stand alone."""
    status = rollout.status
    if status.phase is not Phase.PENDING:
        return None
    if status.claimed is None:
        return status.model_copy(update={"claimed": seen.now})
    message = f"loading version {rollout.spec.candidate.version} beside {rollout.spec.champion.version}"
    return status.entered(Phase.LOADING, seen.now, message, started=seen.now, revisions=seen.traffic.revisions)


def _notice_another_hand(rollout: ModelRollout, seen: Seen) -> Status | None:
    """Reported, never fought: from here on a person decides."""
    if not moved_by_another_hand(rollout, seen.traffic):
        return None
    message = (
        f"expected the traffic at {wanted(rollout)}, seen {seen.traffic}: another hand moved it; "
        "set it back, or abort the rollout"
    )
    if rollout.spec.aborted:
        left = f"{rollout.spec.aborted}, the traffic left: {message}"
        return rollout.status.entered(Phase.ROLLED_BACK, seen.now, left)
    return _saying(rollout.status, message)


def _abort(rollout: ModelRollout, seen: Seen) -> Status | None:
    if rollout.spec.aborted is None or rollout.status.phase is Phase.ROLLING_BACK:
        return None
    return _rolling_back(rollout.status, seen, rollout.spec.aborted)


def _give_up_a_failed_candidate(rollout: ModelRollout, seen: Seen) -> Status | None:
    if seen.traffic.failed is None or rollout.status.phase is Phase.ROLLING_BACK:
        return None
    return _rolling_back(rollout.status, seen, f"the candidate does not serve: {seen.traffic.failed}")


def _end_at_the_deadline(rollout: ModelRollout, seen: Seen) -> Status | None:
    status, policy = rollout.status, rollout.spec.policy
    if status.phase in LEAVING or status.started is None:
        return None
    if seen.now < status.started + timedelta(seconds=seconds(policy.deadline)):
        return None
    reason = f"nothing was decided within {policy.deadline}"
    if policy.undecided is Undecided.PROMOTE and status.phase in JUDGED:
        return _promoting(status, seen, f"{reason}; the policy promotes then")
    return _rolling_back(status, seen, reason)


def _give_up_one_that_does_not_come(rollout: ModelRollout, seen: Seen) -> Status | None:
    """Starting and crashing may look alike, so time alone tells."""
    status, limit = rollout.status, rollout.spec.policy.progress_deadline
    if status.phase is not Phase.LOADING or status.since is None or status.arrived is not None:
        return None
    if seen.now < status.since + timedelta(seconds=seconds(limit)):
        return None
    reason = f"; {seen.traffic.lacks}" if seen.traffic.lacks else ""
    return _rolling_back(status, seen, f"the candidate was not ready within {limit}{reason}")


def _pause(rollout: ModelRollout, _: Seen) -> Status | None:
    """Where it is, judged no further; a deadline and a failed candidate still end it."""
    by_hand = rollout.spec.decision is Decision.PROMOTE
    if rollout.spec.paused and not by_hand and rollout.status.phase not in LEAVING:
        return _saying(rollout.status, "paused by hand; `whimbrel rollout resume` goes on")
    return None


def _wait_for_arrival(rollout: ModelRollout, seen: Seen) -> Status | None:
    status = rollout.status
    if not (seen.traffic.arrived and seen.traffic.like(wanted(rollout))):
        return _saying(status, seen.traffic.lacks or status.message)
    return status.model_copy(update={"arrived": seen.now}) if status.arrived is None else None


def _finish(rollout: ModelRollout, seen: Seen) -> Status | None:
    status = rollout.status
    if status.phase is Phase.PROMOTING:
        return status.entered(Phase.PROMOTED, seen.now, status.history[-1].message, percent=100)
    if status.phase is Phase.ROLLING_BACK:
        return status.entered(Phase.ROLLED_BACK, seen.now, status.history[-1].message, percent=0)
    return None


def _promote_by_hand(rollout: ModelRollout, seen: Seen) -> Status | None:
    if rollout.spec.decision is not Decision.PROMOTE:
        return None
    return _promoting(rollout.status, seen, "promoted by hand")


def _after_loading(rollout: ModelRollout, seen: Seen) -> Status | None:
    if rollout.status.phase is not Phase.LOADING:
        return None
    backtest = rollout.spec.policy.backtest
    if backtest is None:
        return _step(rollout, seen, 0, "no backtest by the policy")
    return rollout.status.entered(Phase.BACKTEST, seen.now, f"both answer {backtest.objects} known objects")


def _after_backtest(rollout: ModelRollout, seen: Seen) -> Status | None:
    """What the backtest leaves undecided, the canary decides."""
    status = rollout.status
    if status.phase is not Phase.BACKTEST:
        return None
    if seen.backtested is None:
        return _saying(status, seen.trouble or status.message)
    told = status.model_copy(update={"backtest": seen.backtested.verdicts, "report": seen.backtested.report})
    failed = [verdict.line() for verdict in seen.backtested.verdicts if verdict.outcome is Outcome.FAILED]
    if failed and not rollout.spec.forced:
        return _rolling_back(told, seen, f"refused by the backtest: {'; '.join(failed)}")
    message = f"forced past the backtest: {'; '.join(failed)}" if failed else _summary("backtest", told.backtest)
    return _step(rollout.model_copy(update={"status": told}), seen, 0, message)


def _refuse(rollout: ModelRollout, seen: Seen) -> Status | None:
    """Also while a replica lags: whoever is there may do harm."""
    status = rollout.status
    if status.phase not in JUDGED or rollout.spec.decision is Decision.PROMOTE:
        return None
    judged = _judged(rollout, seen)
    failed = [verdict.line() for verdict in judged.verdicts if verdict.outcome is Outcome.FAILED]
    return _rolling_back(judged, seen, f"refused at {status.percent}%: {'; '.join(failed)}") if failed else None


def _go_on(rollout: ModelRollout, seen: Seen) -> Status | None:
    status, policy = rollout.status, rollout.spec.policy
    judged = _judged(rollout, seen)
    if status.phase is Phase.AWAITING_PROMOTION:
        return judged
    step = policy.steps[status.step]
    waiting = _waits_for(step, judged, seen)
    if waiting is not None:
        return _saying(judged, f"{status.percent}%: {waiting}" + (f"; {seen.trouble}" if seen.trouble else ""))
    message = _summary(f"{status.percent}%", judged.verdicts)
    return _step(rollout.model_copy(update={"status": judged}), seen, status.step + 1, message)


STEPS: Final[tuple[Callable[[ModelRollout, Seen], Status | None], ...]] = (
    _end_before_it_began,
    _wait_for_its_turn,
    _begin,
    _notice_another_hand,
    _abort,
    _give_up_a_failed_candidate,
    _give_up_one_that_does_not_come,
    _end_at_the_deadline,
    _pause,
    _refuse,
    _wait_for_arrival,
    _finish,
    _promote_by_hand,
    _after_loading,
    _after_backtest,
    _go_on,
)


def _waits_for(step: Step, status: Status, seen: Seen) -> str | None:
    """What this step still lacks; None when the next may come. Its time runs from the traffic's arrival."""
    arrived = status.arrived or seen.now
    if seen.now < arrived + timedelta(seconds=seconds(step.dwell)):
        return f"dwells {step.dwell}"
    if seen.evidence.answers < step.samples:
        return f"{seen.evidence.answers} of {step.samples} answers of the candidate in this step"
    undecided = [verdict.measure for verdict in status.verdicts if verdict.outcome is Outcome.UNDECIDED]
    if seen.evidence.all_asked:
        undecided = [measure for measure in undecided if measure not in OF_THE_OBJECTS]
    return f"undecided: {', '.join(undecided)}" if undecided else None


def _judged(rollout: ModelRollout, seen: Seen) -> Status:
    policy = rollout.spec.policy
    verdicts = tuple(judge(policy.gates, seen.evidence.harms, policy.alpha_of_each))
    return rollout.status.model_copy(update={"verdicts": verdicts})


def _step(rollout: ModelRollout, seen: Seen, index: int, message: str) -> Status:
    """The canary's step `index`, or what follows the last one."""
    status, policy = rollout.status, rollout.spec.policy
    if index < len(policy.steps):
        percent = policy.steps[index].percent
        return status.entered(Phase.CANARY, seen.now, message, step=index, percent=percent)
    if policy.promotion is Promotion.MANUAL:
        said = f"{message}; `whimbrel rollout promote` ends it"
        return status.entered(Phase.AWAITING_PROMOTION, seen.now, said)
    return _promoting(status, seen, message)


def _promoting(status: Status, seen: Seen, message: str) -> Status:
    return status.entered(Phase.PROMOTING, seen.now, message, percent=100)


def _rolling_back(status: Status, seen: Seen, message: str) -> Status:
    return status.entered(Phase.ROLLING_BACK, seen.now, message, percent=0)


def _saying(status: Status, message: str) -> Status:
    return status.model_copy(update={"message": message})


def _summary(what: str, verdicts: Sequence[Verdict]) -> str:
    outcomes = ", ".join(f"{verdict.measure} {verdict.outcome}" for verdict in verdicts)
    return f"{what}: {outcomes or 'no gates'}"
