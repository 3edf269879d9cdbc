"""What a network says that cannot be is its own fault, and is tried again."""

from __future__ import annotations

import numpy as np
import pytest

from whimbrel.core.errors import ModelFailed, is_retried
from whimbrel.predictors.null_network import NullNetwork
from whimbrel.predictors.tasks.task import Wanted

TASK, BEST = NullNetwork(3).task, Wanted(1, 0.5)


def test_labels_stand_beside_their_scores() -> None:
    tensors = TASK.tensors({"indices": np.array([[2, 0]]), "scores": np.array([[0.7, 0.2]])}, BEST)
    assert (tensors["names"].tolist(), tensors["indices"].tolist()) == ([["class-2"]], [[2]])


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_no_numbers_blame_the_model(score: float) -> None:
    with pytest.raises(ModelFailed, match="expected finite scores of the model sha256:") as failed:
        TASK.tensors({"indices": np.array([[0]]), "scores": np.array([[score]])}, BEST)
    assert is_retried(failed.value.status)


def test_the_image_without_numbers_is_named() -> None:
    outputs = {"indices": np.array([[0], [1], [2]]), "scores": np.array([[0.5], [0.5], [np.nan]])}
    with pytest.raises(ModelFailed, match=r"for images\[2\], seen NaN"):
        TASK.tensors(outputs, BEST)
