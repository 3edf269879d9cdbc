"""The seam between a rollout's decisions and how its traffic moves: one way is in place, the other by revision."""

from __future__ import annotations

from typing import Protocol

from whimbrel.mlflow.rollout.reconcile import Traffic


class Mover(Protocol):
    """Of one rollout. Raises what the store or the API server raises."""

    async def look(self) -> Traffic:
        """Where the traffic is wanted now, and whether it is there."""

    async def move(self, target: Traffic, seen: Traffic) -> None:
        """One step towards `target`, decided from what `look` has `seen`. Raises TryAgain where another hand has
        changed that meanwhile: look, and decide again."""
