"""The words of the tensor contract between transformer and predictor (design contract 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

IMAGES = "images"  # UINT8, (N, H, W, 3), RGB

# Classification: (N, k), best first.
INDICES = "indices"
SCORES = "scores"
NAMES = "names"  # UTF-8: the labels of the package that answered, so that no answer is read with another's

# Detection: (N, M), best first; M is that of the image with most objects, `counts` says how many of them are real.
# What is behind them is filled: boxes and keypoints 0, labels -1, scores 0, names empty.
BOXES = "boxes"  # left, top, right, bottom in pixels of `images`, or of the original picture once it is known
LABELS = "labels"
COUNTS = "counts"

# Pose: detection, and of each object its K keypoints: x, y in the same pixels, and a score from 0 to 1.
KEYPOINTS = "keypoints"


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output as V2's metadata describes it: -1 is a side that differs from answer to answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]


CLASSIFICATION, DETECTION, POSE = "classification", "detection", "pose"

_DETECTION: Final = (
    OutputTensor(BOXES, "FP32", (-1, -1, 4)),
    OutputTensor(LABELS, "INT64", (-1, -1)),
    OutputTensor(SCORES, "FP32", (-1, -1)),
    OutputTensor(COUNTS, "INT64", (-1,)),
    OutputTensor(NAMES, "BYTES", (-1, -1)),
)
OUTPUTS_OF_TASK: Final[Mapping[str, tuple[OutputTensor, ...]]] = {
    CLASSIFICATION: (
        OutputTensor(INDICES, "INT64", (-1, -1)),
        OutputTensor(SCORES, "FP32", (-1, -1)),
        OutputTensor(NAMES, "BYTES", (-1, -1)),
    ),
    DETECTION: _DETECTION,
    POSE: (*_DETECTION, OutputTensor(KEYPOINTS, "FP32", (-1, -1, -1, 3))),
}

# Parameters of a request.
PRESET_DIGEST = "preset_digest"  # which preset the tensor was prepared by
TOP_K = "top_k"  # most labels or objects an image
SCORE_THRESHOLD = "score_threshold"  # number, or a string of one; objects below it are left out, of no classification
TIMEOUT = "timeout"  # microseconds from arrival, as Triton has it; after it nobody waits for the answer

# Parameters of a response; in a request, the version names the one that is asked.
MODEL_VERSION = "model_version"
MODEL_DIGEST = "model_digest"

# The header by which a request and its event are followed through logs.
REQUEST_ID_HEADER = "x-request-id"

# What a V1 answer has no field for: headers of the response.
VERSION_HEADER = "x-whimbrel-model-version"
DIGEST_HEADER = "x-whimbrel-model-digest"

# Beside the version that a request to the transformer names: by which tag of a split its revision is reached.
TAG_HEADER = "x-whimbrel-predictor-tag"
LATEST_TAG, PREVIOUS_TAG = "latest", "prev"  # KServe's, of the newest revision and of the one before it
# How Knative is told a tag where the host name cannot tell it.
KNATIVE_TAG_HEADER = "knative-serving-tag"

# How long the caller waits for the answer, in milliseconds from arrival; Envoy sets it by itself.
TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
