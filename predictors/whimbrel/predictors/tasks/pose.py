"""Pose: detection, and of each object its keypoints, as torchvision's keypoint R-CNN gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whimbrel.core.errors import PackageRefused
from whimbrel.core.tensors import KEYPOINTS, OUTPUTS_OF_TASK, POSE, OutputTensor
from whimbrel.predictors.network import Description
from whimbrel.predictors.tasks.detection import Detection, Objects

_KEYPOINT_SCORES = "keypoints_scores"  # torchvision's name


class Pose(Detection):
    """The module gives besides `keypoints` (n, K, 3), x, y and a visibility that is 1 always, and `keypoints_scores`
    (n, K), the height of the heatmap where each was found. A score of ours is the logistic of that height: from 0 to 1,
    0.5 where the network is undecided, no calibrated probability. It stands in the place of the visibility.
    """

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        if not description.keypoints:
            raise PackageRefused("keypoints: expected the names of the keypoints of a pose, seen none")

    @property
    def output_tensors(self) -> tuple[OutputTensor, ...]:
        *outputs, points = OUTPUTS_OF_TASK[POSE]
        return (*outputs, OutputTensor(points.name, points.datatype, (-1, -1, len(self.description.keypoints), 3)))

    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]:
        return {**super().parts, KEYPOINTS: (len(self.description.keypoints), 3)}

    def objects_of(self, found: Mapping[str, Any]) -> Objects:
        import torch

        scores = found[_KEYPOINT_SCORES].float().sigmoid()
        points = torch.cat([found[KEYPOINTS][..., :2], scores[..., None]], dim=-1)
        return {**super().objects_of(found), KEYPOINTS: points}

    def prediction(self, each: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().prediction(each), "keypoints": each[KEYPOINTS]}
