"""Which rollout has an InferenceService: one at a time, whoever starts them and however many controllers look; pure.

A rollout claims it in its own status and looks at the others once more before anything moves. Of two that claim at
once at least one sees the other then, for a list that shows its own claim shows those before it too. Whoever sees a
claim waits, and takes its own back where the other's name comes first; who sees none begins. The traffic it begins
from is seen after that list: whoever had begun before has ended by then, and nobody else begins beside the claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whimbrel.mlflow.rollout.resource import ModelRollout, Phase, Spec


def rivals_of(rollout: ModelRollout, listed: Iterable[ModelRollout]) -> tuple[ModelRollout, ...]:
    """Those that would move the same traffic and have not ended."""
    others = (each for each in listed if each.uid != rollout.uid and not each.ended)
    return tuple(each for each in others if _is_same_traffic(each.spec, rollout.spec))


def waited_for(rivals: Sequence[ModelRollout]) -> ModelRollout | None:
    """Who has begun, else who claims the traffic."""
    begun = (each for each in rivals if each.status.phase is not Phase.PENDING)
    claiming = (each for each in rivals if each.status.claimed is not None)
    return next(begun, None) or min(claiming, key=lambda each: each.name, default=None)


def gives_way(rollout: ModelRollout, other: ModelRollout) -> bool:
    """Whether a claim of the rollout's is taken back."""
    return other.status.phase is not Phase.PENDING or other.name < rollout.name


def _is_same_traffic(one: Spec, other: Spec) -> bool:
    return one.inference_service == other.inference_service or (
        one.pointer is not None and one.pointer == other.pointer
    )
