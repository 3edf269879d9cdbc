"""What follows from where the alias `challenger` points, beside the rollouts that there are; pure.

The rollouts themselves say what was done: one that exists for a version means that this version had its turn, however
it ended. So the same look at the same state gives the same answer, to any controller, at any time.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from whimbrel.core.model_pointer import PointedVersion
from whimbrel.mlflow.registry_view import CHALLENGER
from whimbrel.mlflow.rollout.reconcile import LEAVING
from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, rollout_name

STARTED_BY: Final = "rollout.whimbrel.dev/started-by"
STARTED_BY_ALIAS: Final = {STARTED_BY: CHALLENGER}


@dataclass(frozen=True, slots=True)
class Existing:
    """A rollout of the model. `by_alias`: the alias has started it, and not a person."""

    rollout: ModelRollout
    by_alias: bool


@dataclass(frozen=True, slots=True)
class Start:
    name: str


@dataclass(frozen=True, slots=True)
class Supersede:
    """End the rollout of this name: its version is the challenger no more."""

    name: str


@dataclass(frozen=True, slots=True)
class Wait:
    """For the end of the rollout of this name."""

    name: str


def next_step(
    model: str, challenger: PointedVersion, existing: Sequence[Existing], names: Collection[str]
) -> Start | Supersede | Wait | None:
    """The next thing to do for a challenger that is not the champion. `names` are taken, by whatever rollout.

    A rollout that the alias started is superseded by the next challenger; one that a person started is waited for, and
    so is one whose traffic is on its way already.
    """
    going_on = [each for each in existing if not each.rollout.ended]
    for each in going_on:
        if each.by_alias and not _is_of(each.rollout, challenger) and may_be_superseded(each.rollout):
            return Supersede(each.rollout.name)
    if any(_is_of(each.rollout, challenger) and not _was_superseded(each.rollout) for each in existing):
        return None
    if going_on:
        return Wait(going_on[0].rollout.name)
    return Start(_free(rollout_name(model, challenger.version), names))


def _is_of(rollout: ModelRollout, version: PointedVersion) -> bool:
    """A registry that was made anew counts its versions from 1 again, so the number alone does not tell."""
    candidate = rollout.spec.candidate
    return (candidate.version, candidate.digest) == (version.version, version.digest)


def may_be_superseded(rollout: ModelRollout) -> bool:
    """Not one that has ended, whose traffic is on its way already, or in which a person decided."""
    return not rollout.ended and rollout.status.phase not in LEAVING and rollout.spec.decision is None


def _was_superseded(rollout: ModelRollout) -> bool:
    """It was not judged, so its version may have another turn."""
    return rollout.spec.superseded and rollout.status.phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK}


def _free(name: str, taken: Collection[str]) -> str:
    """The same for all who see the same names: of two who create it, the server takes one."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain((name,), numbered) if each not in taken)
