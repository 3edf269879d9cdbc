"""A result's boxes as COCO JSON (https://cocodataset.org/#format-data, and #format-results for `score`); pure."""

from __future__ import annotations

import json
from typing import Any, Final

from whimbrel.core.results import Prediction, Result

_SEEN: Final = 0.5  # the score from which a keypoint counts as visible (2), below it as labelled only (1)


def coco(result: Result, width: int, height: int) -> bytes:
    """One image, its boxes and the labels that they name. A prediction without a box is no annotation."""
    boxed = [prediction for prediction in result.predictions if prediction.box is not None]
    document = {
        "info": {"description": f"{result.model.name} {result.model.version}", "model_digest": result.model.digest},
        "images": [{"id": 1, "file_name": result.object.key, "width": width, "height": height}],
        "annotations": [_annotation(number, prediction) for number, prediction in enumerate(boxed, 1)],
        "categories": [{"id": index, "name": label} for index, label in sorted({(p.index, p.label) for p in boxed})],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _annotation(number: int, prediction: Prediction) -> dict[str, Any]:
    x, y, width, height = prediction.box or (0, 0, 0, 0)
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": 1,
        "category_id": prediction.index,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "score": prediction.score,
    }
    if prediction.keypoints is not None:
        points = [(px, py, 2 if score >= _SEEN else 1) for px, py, score in prediction.keypoints]
        annotation["keypoints"] = [number for point in points for number in point]
        annotation["num_keypoints"] = len(points)
    return annotation
